"""PGD the wrong way round, against purifiers that take off more than there is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Goal, Problem
from facepurify.bench.attacks.pgd import PGD

__all__ = ["Reversed"]


@dataclass(frozen=True)
class Reversed(PGD):
    """PGD on the opposite goal, for a purifier to turn around.

    It comes nearer to whom it wants to dodge, and gets away from whom it wants to be taken for.
    A purifier that takes off a times what was added leaves 1 - a of it: above a = 1 that points to
    the attacker's goal, and he needs to know no more of the purifier than this. Where nothing
    overshoots it fails. It is unpublished, made against our own denoisers.
    """

    family = "reversed"

    @override
    def run(self, problem: Problem) -> Tensor:
        opposite: Goal = "impersonation" if problem.goal == "dodging" else "dodging"
        return super().run(replace(problem, goal=opposite))
