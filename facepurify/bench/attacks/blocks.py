"""PGD in blocks: what a black-box search by squares would find, in a few gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from facepurify.bench.attacks.base import Problem
from facepurify.bench.attacks.grey import colourless
from facepurify.bench.attacks.iterative import IterativeAttack, ascend
from facepurify.errors import AttackError

__all__ = ["Blocks", "GreyBlocks", "in_blocks"]


def in_blocks(values: Tensor, sides: tuple[int, int], corner: tuple[int, int]) -> Tensor:
    """Means over the rectangles of a grid, [N, C, H, W] to the same; its edges have smaller ones.

    Args:
        values: what to average.
        sides: height and width of a rectangle, in pixels.
        corner: rows and columns of the grid's first rectangle that lie outside the image, from 0
            to one less than its sides.

    >>> import torch
    >>> in_blocks(torch.arange(4.0).reshape(1, 1, 1, 4), (1, 2), (0, 1))[0, 0].tolist()
    [[0.0, 1.5, 1.5, 3.0]]
    """
    (height, width), (top, left) = values.shape[-2:], corner
    below, right = -(top + height) % sides[0], -(left + width) % sides[1]
    padded = functional.pad(
        torch.stack([values, torch.ones_like(values)]), (left, right, top, below)
    )
    sums, pixels = functional.avg_pool2d(padded.flatten(0, 1), sides).unflatten(0, (2, -1))
    grown = (sums / pixels).repeat_interleave(sides[0], -2).repeat_interleave(sides[1], -1)
    inside: Tensor = grown[..., top : top + height, left : left + width]
    return inside


@dataclass(frozen=True)
class Blocks(IterativeAttack):
    """PGD whose gradient is averaged over the squares of a grid, another one at each step.

    A black-box search by squares (Square) ends at noise of whole squares, whose low frequencies
    a purifier that was made against gradient attacks hardly sees. This one leads there with
    gradients, in a hundredth of the calls, so that it can be trained against. It is unpublished,
    made against our own denoisers.

    Attributes:
        least: side of a square, in pixels, at least.
        most: at most.
    """

    family = "blocks"
    least: int = 3
    most: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.least <= self.most:
            raise AttackError(
                f"expected sides of squares from 1 up, got {self.least} to {self.most}"
            )

    @override
    def run(self, problem: Problem) -> Tensor:
        return ascend(problem, problem.clean, self.steps, lambda g: self._averaged(g, problem))

    def _averaged(self, gradient: Tensor, problem: Problem) -> Tensor:
        side = problem.integer(self.least, self.most + 1)
        corner = problem.integer(0, side), problem.integer(0, side)
        return in_blocks(gradient, (side, side), corner)


@dataclass(frozen=True)
class GreyBlocks(Blocks):
    """The same without colour: neither of the two grains that a denoiser knows attacks by is left.

    It gives up two thirds of what blocks may do, and still comes through ours more often than
    either of the two, blocks and :class:`Grey`, that it puts together.
    """

    family = "grey_blocks"

    @override
    def _averaged(self, gradient: Tensor, problem: Problem) -> Tensor:
        return colourless(super()._averaged(gradient, problem))
