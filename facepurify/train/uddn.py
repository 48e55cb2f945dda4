"""UDDN: a residual U-Net that takes the noise out of a face (Li and Wang, Electronics 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facepurify.errors import OptionError
from facepurify.train.basis import Basis
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.overshoot import Factors, Pixels

__all__ = [
    "SIZES",
    "LightUNet",
    "PublishedUNet",
    "SlimUNet",
    "UddnNet",
    "WideUNet",
    "check_plain",
    "pruned",
]

LIGHT = ((16, 1), (40, 1), (88, 2), (128, 2))
SLIM = ((16, 1), (40, 1), (88, 1), (128, 1))
WIDE = ((32, 1), (48, 1), (88, 1), (128, 2))
SIDE = 2  # of the blocks of pixels that the light ones find noise in
BLOCK = 3 * SIDE**2  # its values
PUBLISHED = (64, 128, 256, 256, 256)


class UddnNet(nn.Module):
    """The denoiser: what the U-Net calls noise is taken off, x_hat = clamp(x + (-d)), eq. 4.

    Beyond the paper, a head on the bottleneck says how likely the image was attacked. The last
    convolution starts at zero, so that an untrained network changes nothing.

    Beyond it too, a fixed projection can come first. A residual denoiser hands on what it does not
    recognise, so somebody who attacks through it has every pixel to do so. Behind the projection of
    PIN, with all its eigenfaces kept, nothing reaches it from outside their span, and it learns to
    restore what recognizers miss then.

    Args:
        size: "light", "slim", "wide" or "published".
        front: the eigenfaces of the projection before it; none for the face as it came.

    Raises:
        OptionError: another size.
    """

    def __init__(self, size: str = "light", front: Basis | None = None) -> None:
        super().__init__()
        if size not in SIZES:
            raise OptionError(f"expected a size of {', '.join(SIZES)}, got {size!r}")
        self.size = size
        self.unet = SIZES[size]()
        self.suspicion = nn.Linear(self.unet.bottleneck, 1)
        self.front = None if front is None else ImmuneSpace(front)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 112, 112] RGB in [0, 1] to the same, purified, and a logit [N].

        The last is the suspicion that the image was attacked.
        """
        return self.denoise(x)

    def denoise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The denoiser alone, whatever a network built on it adds behind."""
        if self.front is not None:
            x = self.front.decode(self.front.encode(x))
        negative, bottleneck = self.unet(x * 2 - 1)
        return (x + negative).clamp(0, 1), self.suspicion(bottleneck).squeeze(1)

    def purify(self, x: Tensor) -> Tensor:
        """[N, 3, 112, 112] RGB in [0, 1] to the same, purified."""
        purified: Tensor = self(x)[0]
        return purified

    def overshoot(self, factors: Factors) -> None:
        """From now on takes so many times what it finds off: see :class:`Pixels`."""
        self.unet.pixels = Pixels(self.unet.pixels.block, factors)


def check_plain(net: UddnNet) -> None:
    """Refuses what has more than a denoiser to it, where only a denoiser would be taken of it.

    Raises:
        OptionError: it is built on one.
    """
    if type(net) is not UddnNet:
        raise OptionError(f"expected a denoiser alone to build on, got {type(net).__name__}")


def pruned(net: UddnNet, size: str) -> UddnNet:
    """A smaller denoiser with those layers of ``net`` that it has too, by their names.

    Args:
        net: the denoiser; its weights are copied.
        size: of the smaller one.

    Returns:
        It, in evaluation mode.

    Raises:
        OptionError: the size has layers that ``net`` has not, or of another shape.
    """
    check_plain(net)
    front = None if net.front is None else net.front.basis()
    smaller, weights = UddnNet(size, front), net.state_dict()
    wanted = smaller.state_dict()
    if any(name not in weights or weights[name].shape != wanted[name].shape for name in wanted):
        raise OptionError(f"expected layers of size {size} to keep, got a denoiser of {net.size}")
    smaller.load_state_dict({name: weights[name] for name in wanted})
    return smaller.eval()


class LightUNet(nn.Module):
    """The U-Net that ships: 236 MMAC and 1.4 M parameters, in dense 3 x 3 convolutions.

    Most of its work is at a side of 28 and below: it opens with a stride of 2 and closes with
    blocks of 2 x 2 pixels, since a full-resolution layer waits for memory more than it computes.
    Skips are added, not concatenated, and batch norm folds into the convolutions.

    Args:
        stages: (channels, residual blocks) at sides of 56, 28, 14 and 7 pixels; the way back
            has the same, but for the last.
        blocks: see blocks of 2 x 2 pixels as 12 channels, in the first layer and once more in
            the last, in place of the stride.
    """

    def __init__(self, stages: Sequence[tuple[int, int]] = LIGHT, *, blocks: bool = False) -> None:
        super().__init__()
        self.bottleneck = stages[-1][0]
        self.blocks = nn.PixelUnshuffle(2) if blocks else None
        down, grow, up = [], [], []
        inputs, stride = (BLOCK, 1) if blocks else (3, 2)
        for width, depth in stages:
            down.append(nn.Sequential(_unit(inputs, width, stride), *_blocks(width, depth)))
            inputs, stride = width, 2
        for width, depth in reversed(stages[:-1]):
            grow.append(nn.Sequential(_linear(inputs, width, 1), nn.Upsample(scale_factor=2)))
            up.append(nn.Sequential(*_blocks(width, depth)))
            inputs = width
        self.down, self.grow, self.up = map(nn.ModuleList, (down, grow, up))
        last = inputs + BLOCK if blocks else inputs
        self.noise = _silent(nn.Conv2d(last, BLOCK, 3, padding=1))
        self.pixels = Pixels(SIDE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 112, 112] in [-1, 1] to the negative noise, and the bottleneck's mean [N, C]."""
        seen = x = x if self.blocks is None else self.blocks(x)
        laterals = []
        for stage in self.down:
            x = stage(x)
            laterals.append(x)
        bottleneck = x.mean(dim=(2, 3))
        for grow, blocks, lateral in zip(self.grow, self.up, laterals[-2::-1], strict=True):
            x = blocks(torch.relu(grow(x) + lateral))
        if self.blocks is not None:
            x = torch.cat([x, seen], dim=1)
        return self.pixels(self.noise(x)), bottleneck


class SlimUNet(LightUNet):
    """The same with one residual block a stage: 167 MMAC and 0.8 M parameters.

    It is made from a light one (:func:`pruned`), and learns to do without the others.
    """

    def __init__(self) -> None:
        super().__init__(SLIM)


class WideUNet(LightUNet):
    """The same, wider where noise differs from pixel to pixel: 316 MMAC and 1.2 M parameters.

    A block of 2 x 2 pixels has 12 values, and 16 channels that are never negative hardly hold its
    noise. It costs about 1.3 times the light one's operations.
    """

    def __init__(self) -> None:
        super().__init__(WIDE, blocks=True)


class PublishedUNet(nn.Module):
    """The paper's units: encoder C2 and four C3, decoder F with three C3 and one C2, a 1 x 1.

    The text gives no channels and leaves the connections inside C3 open ("similar to the densenet
    block"). Channels are those of the network that it follows (Liao et al., arXiv 1712.02976), and
    a C3's third layer sees the first two.
    """

    bottleneck = PUBLISHED[-1]

    def __init__(self) -> None:
        super().__init__()
        first, *rest = PUBLISHED
        encoder: list[nn.Module] = [_C2(3, first)]
        for inputs, width in zip(PUBLISHED, rest, strict=False):
            encoder.append(_C3(inputs, width, stride=2))
        decoder: list[nn.Module] = []
        inputs = rest[-1]
        for width in reversed(PUBLISHED[1:-1]):
            decoder.append(_C3(inputs + width, width))
            inputs = width
        decoder.append(_C2(inputs + first, first))
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.grow = nn.Upsample(scale_factor=2)
        self.noise = _silent(nn.Conv2d(first, 3, 1))
        self.pixels = Pixels(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 112, 112] in [-1, 1] to the negative noise, and the bottleneck's mean [N, C]."""
        laterals = []
        for unit in self.encoder:
            x = unit(x)
            laterals.append(x)
        bottleneck = x.mean(dim=(2, 3))
        for unit, lateral in zip(self.decoder, laterals[-2::-1], strict=True):
            x = unit(torch.cat([self.grow(x), lateral], dim=1))  # F, the fusion unit
        return self.pixels(self.noise(x)), bottleneck


SIZES: dict[str, type[LightUNet | PublishedUNet]] = {
    "light": LightUNet,
    "slim": SlimUNet,
    "wide": WideUNet,
    "published": PublishedUNet,
}


class _C2(nn.Module):
    """Two layers, the second residual."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = _unit(inputs, width), _unit(width, width)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        out: Tensor = first + self.second(first)
        return out


class _C3(nn.Module):
    """Three densely connected layers, the first of which may have a stride."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = _unit(inputs, width, stride), _unit(width, width)
        self.third = _unit(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        out: Tensor = self.third(torch.cat([first, self.second(first)], dim=1))
        return out


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_unit(width, width), _linear(width, width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


def _blocks(width: int, depth: int) -> list[_Residual]:
    return [_Residual(width) for _ in range(depth)]


def _linear(inputs: int, width: int, side: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, side, stride, side // 2, bias=False), nn.BatchNorm2d(width)
    )


def _unit(inputs: int, width: int, stride: int = 1) -> nn.Sequential:
    """The paper's C: a 3 x 3 convolution, batch norm, ReLU."""
    return nn.Sequential(*_linear(inputs, width, 3, stride), nn.ReLU())


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """Starts a layer at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
