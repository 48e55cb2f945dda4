"""PGD whose noise is as large as the gradient, not its sign: as slight as a success allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Norm, Problem
from facepurify.bench.attacks.iterative import IterativeAttack, ascend

__all__ = ["Graded"]

PART = 6  # of eps; a denoiser finds both what is much weaker and what is stronger
LEAST = 1.0  # grey levels


@dataclass(frozen=True)
class Graded(IterativeAttack):
    """PGD by L2 in an L-inf ball: no pixel by more than eps, all by a sixth of it on average.

    The signs that attacks in an L-inf ball follow spend all of eps on every pixel, which is far
    more than many a recognizer needs, and what a denoiser finds an attack by. This one spends
    most where the gradient is large: its noise has a root mean square of eps / 6, and of one grey
    level at least. Steps and rounding are those of PGD by L2 (Madry et al., arXiv 1706.06083).
    """

    family = "graded"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    @override
    def run(self, problem: Problem) -> Tensor:
        level = (problem.eps / PART).clamp_min(LEAST).minimum(problem.eps)
        radius = level * problem.clean[0].numel() ** 0.5
        capped = _Capped(**{**vars(problem), "norm": "l2", "eps": radius}, cap=problem.eps.floor())
        return ascend(capped, problem.clean, self.steps, lambda gradient: gradient)


@dataclass(frozen=True)
class _Capped(Problem):
    """A problem in an L2 ball and in an L-inf ball at once.

    Attributes:
        cap: [N, 1, 1, 1], radius of the latter, in whole grey levels.
    """

    cap: Tensor

    @override
    def project(self, levels: Tensor) -> Tensor:
        inside = super().project(levels)  # cutting shortens what is inside further
        return self.clean + (inside - self.clean).clamp(-self.cap, self.cap)
