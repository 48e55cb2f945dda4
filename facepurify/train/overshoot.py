"""How many times the noise that a denoiser finds is taken off, by its grain and colour."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from facepurify.errors import OptionError

__all__ = ["CHOSEN", "ONCE", "Factors", "Pixels"]

SQUARE = 4  # side of those whose means are coarse, in pixels; smaller ones have fine grain in them
COLOURS = 3


@dataclass(frozen=True)
class Factors:
    """How many times each part of the noise is taken off.

    Attributes:
        luma: of what is fine, the mean of the three colours.
        chroma: of what is fine, the rest.
        coarse: of what is coarse.

    Raises:
        OptionError: one is not above 0.
    """

    luma: float
    chroma: float
    coarse: float

    def __post_init__(self) -> None:
        if not all(0 < factor < math.inf for factor in astuple(self)):
            raise OptionError(f"expected an overshoot above 0, got {self}")

    @staticmethod
    def read(text: str) -> Factors:
        """One factor for all, or three with commas between them.

        Raises:
            OptionError: it is neither, or one is not above 0.

        >>> Factors.read("1.5")
        Factors(luma=1.5, chroma=1.5, coarse=1.5)
        >>> Factors.read("1.25,1.5,1.75").coarse
        1.75
        """
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3:
            raise OptionError(
                "expected an overshoot of one number, or of three for fine luma, fine chroma and "
                f"what is coarse, such as 1.25,1.5,1.75, got {text!r}"
            )
        return Factors(*numbers)

    def __str__(self) -> str:
        return ",".join(f"{factor:g}" for factor in astuple(self))


ONCE = Factors(1.0, 1.0, 1.0)
CHOSEN = Factors(1.25, 1.5, 1.75)  # on held-out faces: benchmarks/uddn, by grain


class Pixels(nn.Module):
    """The noise in pixels, of the blocks of pixels that a denoiser finds, and more of it.

    What is trained to be near the clean face on average takes off less than there is where it is
    unsure, as on the noise of a recognizer that guided none of it. What is taken off too much
    points away from the attack's goal, and so does less harm than what is left.

    How unsure it is differs with the grain. d = c + f: c the means over squares of four pixels,
    linear between their centres, f the rest. Taken off is

        coarse c + luma mean(f) + chroma (f - mean(f)),

    where the mean is that of the three colours. It is no part of what is trained, and a network
    that is read from a file has factors of 1 again. Beyond the papers.

    With factors of 1 and a block of 2 it is bit for bit ``nn.PixelShuffle(2)``, and in ONNX Runtime
    in less than half its time.

    Args:
        block: side of the blocks, 1 or 2 pixels.
        factors: how many times.
    """

    weight: Tensor
    coarse: Tensor | None

    def __init__(self, block: int, factors: Factors = ONCE) -> None:
        super().__init__()
        self.block = block
        channels = COLOURS * block**2
        places = torch.eye(channels).reshape(channels, COLOURS, block, block)
        mean, one = torch.full((COLOURS, COLOURS), 1 / COLOURS), torch.eye(COLOURS)
        fine = factors.chroma * one + (factors.luma - factors.chroma) * mean
        self.register_buffer("weight", torch.einsum("nchw,co->nohw", places, fine), False)
        coarse = None
        if not factors.luma == factors.chroma == factors.coarse:
            more = factors.coarse * one - fine  # than the fine part's factors take of it already
            distance = (torch.arange(2 * SQUARE) + 0.5) / SQUARE - 1  # from the square's centre
            linear = 1 - distance.abs()
            means = places.mean(dim=(2, 3)) @ more
            coarse = torch.einsum("no,h,w->nohw", means, linear, linear)
        self.register_buffer("coarse", coarse, False)

    def forward(self, noise: Tensor) -> Tensor:
        """[N, 3 block^2, H / block, W / block] to [N, 3, H, W]; sides are multiples of four."""
        pixels = functional.conv_transpose2d(noise, self.weight, stride=self.block)
        if self.coarse is None:
            return pixels
        means = functional.avg_pool2d(noise, SQUARE // self.block)
        return pixels + functional.conv_transpose2d(
            means, self.coarse, stride=SQUARE, padding=SQUARE // 2
        )
