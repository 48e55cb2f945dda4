"""PGD of one grain, whichever is drawn: what an attacker may choose who tries them all."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Problem
from facepurify.bench.attacks.blocks import in_blocks
from facepurify.bench.attacks.grey import colourless
from facepurify.bench.attacks.iterative import IterativeAttack, ascend

__all__ = ["SIDES", "Grains"]

SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 28, 112)  # pixels; 112 are a whole aligned crop


@dataclass(frozen=True)
class Grains(IterativeAttack):
    """PGD whose gradient is averaged over rectangles, without colour half of the time.

    Their height and width are each drawn from ``SIDES`` for the whole attack, their place anew at
    each step, so that what overlaps is smooth. Squares, stripes, what is oblong, slow waves: a
    batch has one of them. It is there to be trained against, so that a denoiser does not learn the
    few grains that attacks with names have; no published attack draws so.
    """

    family = "grains"

    @override
    def run(self, problem: Problem) -> Tensor:
        height, width = (SIDES[problem.integer(0, len(SIDES))] for _ in range(2))
        grey = bool(problem.integer(0, 2))

        def direction(gradient: Tensor) -> Tensor:
            corner = problem.integer(0, height), problem.integer(0, width)
            averaged = in_blocks(gradient, (height, width), corner)
            return colourless(averaged) if grey else averaged

        return ascend(problem, problem.clean, self.steps, direction)
