"""Selectors: networks that say for each image which eigenfaces to keep."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

__all__ = ["AnalyzerSelector", "LightSelector", "PublishedSelector"]

WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)


class LightSelector(nn.Module):
    """A strided convolutional encoder of about 24 MMAC; the one that ships.

    Args:
        count: K, how many eigenfaces there are to choose from.
    """

    code_size = 128

    def __init__(self, count: int) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        stages = [
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()
            )
            for a, b in itertools.pairwise(widths)
        ]
        self.encoder = nn.Sequential(
            *stages,
            nn.Conv2d(128, 32, 1),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, self.code_size),
            nn.BatchNorm1d(self.code_size),
            nn.ReLU(),
        )
        self.logits = nn.Linear(self.code_size, count)

    def encode(self, x: Tensor) -> Tensor:
        """[N, 3, 112, 112] in [0, 1] to the code [N, 128]."""
        code: Tensor = self.encoder(x * 2 - 1)
        return code

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 112, 112] in [0, 1] to the code [N, 128] and logits [N, K]."""
        code = self.encode(x)
        return code, self.logits(code)


class PublishedSelector(nn.Module):
    """PIN's own: a denoising autoencoder applied twice, then eight residual blocks on grey."""

    code_size = 512

    def __init__(self, count: int) -> None:
        super().__init__()
        self.denoiser = _DenoisingAutoencoder()
        self.encoder = nn.Sequential(
            *_blocks(batch_norm=False),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, self.code_size),
            nn.PReLU(self.code_size),
        )
        self.logits = nn.Linear(self.code_size, count)

    def encode(self, x: Tensor) -> Tensor:
        """[N, 3, 112, 112] in [0, 1] to the code [N, 512]."""
        code: Tensor = self.encoder(self.denoiser(self.denoiser(_grey(x))))
        return code

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 112, 112] in [0, 1] to the code [N, 512] and logits [N, K]."""
        code = self.encode(x)
        return code, self.logits(code)


class AnalyzerSelector(nn.Module):
    """The antigen analyzer of AIS: PIN's blocks with batch norm, straight on the grey image."""

    code_size = 512

    def __init__(self, count: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *_blocks(batch_norm=True),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, self.code_size),
            nn.BatchNorm1d(self.code_size),
            nn.PReLU(self.code_size),
        )
        self.logits = nn.Linear(self.code_size, count)

    def encode(self, x: Tensor) -> Tensor:
        """[N, 3, 112, 112] in [0, 1] to the code [N, 512]."""
        code: Tensor = self.encoder(_grey(x))
        return code

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 112, 112] in [0, 1] to the code [N, 512] and logits [N, K]."""
        code = self.encode(x)
        return code, self.logits(code)


def _grey(x: Tensor) -> Tensor:
    """[N, 3, H, W] RGB in [0, 1] to [N, 1, H, W] in [-1, 1]."""
    return (0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]) * 2 - 1


def _blocks(*, batch_norm: bool) -> list[nn.Module]:
    """The eight published residual blocks, from one plane to 512 of 7 x 7."""
    return [
        _ResidualBlock(a, b, stride=2 if i % 2 == 0 else 1, batch_norm=batch_norm)
        for i, (a, b) in enumerate(zip((1, *WIDTHS), WIDTHS, strict=False))
    ]


class _DenoisingAutoencoder(nn.Module):
    """1-64-128-256 channels, two 3x3 convolutions a block, the second of stride 2; mirrored."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 64, 128, 256)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.PReLU(b)]
            layers += [nn.Conv2d(b, b, 3, stride=2, padding=1), nn.PReLU(b)]
        for a, b in ((256, 128), (128, 64), (64, 1)):
            layers += [nn.ConvTranspose2d(a, a, 4, stride=2, padding=1), nn.PReLU(a)]
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.PReLU(b)]
        layers[-1] = nn.Tanh()
        self.layers = nn.Sequential(*layers)

    def forward(self, grey: Tensor) -> Tensor:
        out: Tensor = self.layers(grey)
        return out


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, batch_norm: bool) -> None:
        super().__init__()
        layers = (
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs) if batch_norm else None,
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1),
            nn.BatchNorm2d(outputs) if batch_norm else None,
        )
        self.main = nn.Sequential(*(layer for layer in layers if layer is not None))
        straight = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if straight else nn.Conv2d(inputs, outputs, 1, stride=stride)
        self.activation = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.main(x) + self.skip(x))
        return out
