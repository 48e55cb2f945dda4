"""PGD whose noise has no colour, as on a grey photo."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Problem
from facepurify.bench.attacks.iterative import IterativeAttack, ascend

__all__ = ["Grey", "colourless"]


def colourless(gradient: Tensor) -> Tensor:
    """The direction that moves red, green and blue alike and gains most, [N, 3, H, W] of the same.

    >>> import torch
    >>> colourless(torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)).flatten().tolist()
    [7.0, 7.0, 7.0]
    """
    return gradient.sum(1, keepdim=True).expand_as(gradient)


@dataclass(frozen=True)
class Grey(IterativeAttack):
    """PGD (Madry et al., arXiv 1706.06083) that moves red, green and blue alike.

    On a photo without colours it is all that an attack can do. Elsewhere it gives up two thirds of
    its freedom, and with it the coloured grain that a denoiser knows attacks by.
    """

    family = "grey"

    @override
    def run(self, problem: Problem) -> Tensor:
        return ascend(problem, problem.clean, self.steps, colourless)
