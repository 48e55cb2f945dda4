"""The architecture of our own recognizers: small, and quick to train without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["FaceNet"]

WINDOW = 7


class FaceNet(nn.Module):
    """A residual network with MobileFaceNet's global depthwise convolution (1804.07573).

    0.85 M parameters at the default widths. Its blocks have dense 3 x 3 convolutions where
    MobileFaceNet has inverted residuals: with few channels they cost about as many operations,
    and on a CPU a training step is 3 to 4 times faster, since depthwise layers wait for memory.
    Input as insightface feeds it: [N, 3, 112, 112] RGB, (pixel - 127.5) / 127.5; output [N, d],
    not normalised. Smaller faces do as well: their last features are stretched to the 7 x 7 that
    the depthwise convolution covers, so that each part of a face meets the weights it is to meet.

    Args:
        dim: length d of an embedding.
        widths: channels at a side of 28, 14 and 7 pixels.
        depths: residual blocks at each of them.
    """

    def __init__(
        self,
        dim: int = 128,
        widths: Sequence[int] = (32, 64, 128),
        depths: Sequence[int] = (2, 3, 2),
    ) -> None:
        super().__init__()
        self.dim = dim
        head = 2 * widths[-1]
        layers: list[nn.Module] = [_conv(3, 16, 3, stride=2), _conv(16, widths[0], 3, stride=2)]
        inputs = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for block in range(depth):
                layers.append(_Residual(inputs, width, 2 if stage > 0 and block == 0 else 1))
                inputs = width
        self.features = nn.Sequential(*layers, _conv(inputs, head, 1))
        self.pool = nn.Sequential(
            nn.Conv2d(head, head, WINDOW, groups=head, bias=False), nn.BatchNorm2d(head)
        )
        self.embedding = nn.Sequential(
            nn.Flatten(), nn.Linear(head, dim, bias=False), nn.BatchNorm1d(dim)
        )

    def forward(self, blob: Tensor) -> Tensor:
        """Embeddings of normalised pixels."""
        features = self.features(blob)
        if features.shape[-1] < WINDOW:
            features = nn.functional.interpolate(features, size=WINDOW, mode="bilinear")
        embedding: Tensor = self.embedding(self.pool(features))
        return embedding


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(inputs, outputs, 3, stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        straight = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if straight
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = nn.functional.relu(self.shortcut(x) + self.layers(x))
        return out


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
