"""The translation-invariant method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from facepurify.bench.attacks.base import Problem
from facepurify.bench.attacks.iterative import IterativeAttack, ascend
from facepurify.bench.attacks.mim import Momentum

__all__ = ["TIM", "gaussian_kernel"]


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """A Gaussian [size, size] that sums to 1; ``size`` is odd.

    >>> kernel = gaussian_kernel(3, 1.0)
    >>> round(float(kernel.sum()), 6), bool(kernel[1, 1] > kernel[0, 1])
    (1.0, True)
    """
    offsets = torch.arange(size, dtype=torch.float32) - size // 2
    row = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = row[:, None] * row[None, :]
    return kernel / kernel.sum()


@dataclass(frozen=True)
class TIM(IterativeAttack):
    """MIM whose gradient is blurred, as if summed over shifts (Dong et al., arXiv 1904.02884).

    Attributes:
        kernel: side of the Gaussian, odd. The paper's 15 is for 299 pixels: 7 for 112.
        decay: of the momentum.
    """

    family = "tim"
    kernel: int = 7
    decay: float = 1.0

    @override
    def run(self, problem: Problem) -> Tensor:
        channels = problem.clean.shape[1]
        # The paper's Gaussian reaches three deviations at the edge of the kernel.
        blur = gaussian_kernel(self.kernel, self.kernel // 2 / 3).to(problem.clean)
        weights = blur.expand(channels, 1, -1, -1)
        momentum = Momentum(self.decay)

        def direction(gradient: Tensor) -> Tensor:
            padding = self.kernel // 2
            return momentum(functional.conv2d(gradient, weights, padding=padding, groups=channels))

        return ascend(problem, problem.clean, self.steps, direction)
