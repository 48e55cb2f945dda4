"""The momentum iterative method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Problem
from facepurify.bench.attacks.iterative import IterativeAttack, ascend

__all__ = ["MIM", "Momentum"]


class Momentum:
    """Adds up gradients, each over its mean magnitude (Dong et al., arXiv 1710.06081, eq. 6)."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.total: Tensor | None = None

    def __call__(self, gradient: Tensor) -> Tensor:
        """Adds a gradient [N, 3, H, W]; returns the running sum."""
        scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        scaled = gradient / scale.clamp_min(torch.finfo(gradient.dtype).tiny)
        self.total = scaled if self.total is None else scaled + self.total * self.decay
        return self.total


@dataclass(frozen=True)
class MIM(IterativeAttack):
    """Steepest steps along a running sum of gradients (arXiv 1710.06081).

    Attributes:
        decay: share of the running sum that survives a step.
    """

    family = "mim"
    decay: float = 1.0

    @override
    def run(self, problem: Problem) -> Tensor:
        return ascend(problem, problem.clean, self.steps, Momentum(self.decay))
