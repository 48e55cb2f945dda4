"""The architecture of our own recognizers: small, and quick to train without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["FaceNet"]

SIDES = (28, 14, 7)


class FaceNet(nn.Module):
    """MobileFaceNet's layout (1804.07573) with dense convolutions in the place of depthwise ones.

    MobileFaceNet's depthwise convolutions, in twice a block's channels, wait for memory: a training
    step of these blocks, with about as many operations, takes half the time. 1.02 M parameters at
    the default widths. As there a stage ends in few channels without a nonlinearity, so that
    MobileFaceNet's own stages can teach these, and the last features meet a global depthwise
    convolution.
    Input as insightface feeds it: [N, 3, 112, 112] RGB, (pixel - 127.5) / 127.5; output [N, d],
    not normalised.

    Args:
        dim: length d of an embedding.
        widths: channels at a side of 28, 14 and 7 pixels.
        depths: residual blocks at each of them: at 28 pixels, where elements cost more than
            operations, of two convolutions; behind, where parameters are dear, bottlenecks.

    Attributes:
        stages: from pixels to a side of 28, from there to 14, and to 7.
        embedding: from there to the embedding.
    """

    def __init__(
        self,
        dim: int = 128,
        widths: Sequence[int] = (64, 128, 128),
        depths: Sequence[int] = (2, 5, 4),
    ) -> None:
        super().__init__()
        self.dim = dim
        self._widths = widths
        inputs = widths[0] // 2
        layers: list[nn.Module] = [_conv(3, inputs, 3, stride=2), nn.ReLU()]
        self.stages = nn.ModuleList()
        for width, depth, body in zip(widths, depths, (_basic, *2 * [_bottleneck]), strict=True):
            layers.append(_conv(inputs, width, 3, stride=2))
            layers += [_Residual(body(width)) for _ in range(depth)]
            self.stages.append(nn.Sequential(*layers))
            inputs, layers = width, []
        wide = 4 * inputs
        self.embedding = nn.Sequential(
            _conv(inputs, wide, 1),
            nn.ReLU(),
            _normed(nn.Conv2d(wide, wide, SIDES[-1], groups=wide, bias=False)),
            nn.Flatten(),
            _normed(nn.Linear(wide, dim, bias=False)),
        )

    def shapes(self) -> list[tuple[int, ...]]:
        """[C, H, W] of the map at the end of each stage."""
        return [(width, side, side) for width, side in zip(self._widths, SIDES, strict=True)]

    def forward(self, blob: Tensor) -> Tensor:
        """Embeddings of normalised pixels."""
        for stage in self.stages:
            blob = stage(blob)
        embedding: Tensor = self.embedding(blob)
        return embedding


class _Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def _basic(width: int) -> nn.Sequential:
    return nn.Sequential(_conv(width, width, 3), nn.ReLU(), _conv(width, width, 3))


def _bottleneck(width: int) -> nn.Sequential:
    narrow = width // 2
    return nn.Sequential(
        _conv(width, narrow, 1),
        nn.ReLU(),
        _conv(narrow, narrow, 3),
        nn.ReLU(),
        _conv(narrow, width, 1),
    )


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    return _normed(nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False))


def _normed(layer: nn.Conv2d | nn.Linear) -> nn.Sequential:
    norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
    return nn.Sequential(layer, norm(len(layer.weight)))
