"""The diverse inputs iterative method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from facepurify.bench.attacks.base import Problem
from facepurify.bench.attacks.iterative import IterativeAttack, ascend
from facepurify.bench.attacks.mim import Momentum

__all__ = ["DIM", "resize_and_pad"]


def resize_and_pad(images: Tensor, smallest: int, generator: torch.Generator) -> Tensor:
    """Shrinks [N, C, S, S] to a random side, and pads it with black to S at a random place.

    The side is ``smallest`` to S - 1; one draw for the whole batch.

    >>> generator = torch.Generator().manual_seed(0)
    >>> resize_and_pad(torch.ones(1, 3, 112, 112), 100, generator).shape
    torch.Size([1, 3, 112, 112])
    """

    def draw(low: int, high: int) -> int:
        device = generator.device
        return int(torch.randint(low, high, (), generator=generator, device=device))

    full = images.shape[-1]
    side = draw(smallest, full)
    small = functional.interpolate(
        images, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    left, top = draw(0, full - side + 1), draw(0, full - side + 1)
    return functional.pad(small, (left, full - side - left, top, full - side - top))


@dataclass(frozen=True)
class DIM(IterativeAttack):
    """MIM whose gradient sees the image resized and padded at random (arXiv 1803.06978).

    Attributes:
        probability: of seeing it so, in each step.
        shrink: smallest side, as a share of the image's.
        decay: of the momentum.
    """

    family = "dim"
    probability: float = 0.5
    shrink: float = 0.9
    decay: float = 1.0

    @override
    def run(self, problem: Problem) -> Tensor:
        generator = problem.generator
        smallest = int(problem.clean.shape[-1] * self.shrink)

        def view(levels: Tensor) -> Tensor:
            chance = float(torch.rand((), generator=generator, device=generator.device))
            if chance >= self.probability:
                return levels
            return resize_and_pad(levels, smallest, generator)

        return ascend(problem, problem.clean, self.steps, Momentum(self.decay), view=view)
