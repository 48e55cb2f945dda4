"""Projected gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Problem
from facepurify.bench.attacks.iterative import IterativeAttack, ascend

__all__ = ["PGD"]


@dataclass(frozen=True)
class PGD(IterativeAttack):
    """Steepest steps from a random point of the ball (Madry et al., arXiv 1706.06083).

    Attributes:
        random_start: begin at a random point; at the image itself otherwise (BIM).
    """

    family = "pgd"
    random_start: bool = True

    @override
    def run(self, problem: Problem) -> Tensor:
        start = problem.random_start() if self.random_start else problem.clean
        return ascend(problem, start, self.steps, lambda gradient: gradient)
