"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Attack, Problem

__all__ = ["FGSM"]


@dataclass(frozen=True)
class FGSM(Attack):
    """One steepest step of length eps (Goodfellow et al., arXiv 1412.6572, equation in 4)."""

    family = "fgsm"

    @override
    def run(self, problem: Problem) -> Tensor:
        _, gradient = problem.value_and_gradient(problem.clean)
        return problem.quantise(problem.clean + problem.eps * problem.steepest(gradient))
