"""PGD in stripes: each row and each column of the noise of one colour."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Problem
from facepurify.bench.attacks.iterative import IterativeAttack, ascend

__all__ = ["Stripes"]

ROWS, COLUMNS = 2, 3


@dataclass(frozen=True)
class Stripes(IterativeAttack):
    """PGD whose gradient is averaged over whole rows or whole columns, drawn anew at each step.

    Stripes of columns are what Square (Andriushchenko et al., ECCV 2020) begins with. They have no
    grain along their length, and a denoiser that was made against noise of small parts hardly sees
    them. It is unpublished, made against our own denoisers.
    """

    family = "stripes"

    @override
    def run(self, problem: Problem) -> Tensor:
        def direction(gradient: Tensor) -> Tensor:
            along = COLUMNS if problem.integer(0, 2) else ROWS
            return gradient.mean(along, keepdim=True).expand_as(gradient)

        return ascend(problem, problem.clean, self.steps, direction)
