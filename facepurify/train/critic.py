"""A critic of antibodies: it predicts at run time what only training can measure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facepurify.train.ais import AisNet

__all__ = ["AffinityCritic", "relative"]

FEATURES = 3
HIDDEN = 32
SLOPE = 0.1


class AffinityCritic(nn.Module):
    """From code, coefficients and antibody to how much better it is than another of its face.

    Each kept eigenface adds a vector that depends on its own coefficient: on its size over the
    eigenface's standard deviation, and on the log of its energy. One hidden layer judges the sum
    beside the code. Its matrix is made once for a face, so a clone costs K x 32 products.

    Args:
        count: K.
        size: C, length of the code.
    """

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.genes = nn.Parameter(torch.randn(FEATURES, count, HIDDEN) / count**0.5)
        self.code = nn.Linear(size, HIDDEN)
        self.head = nn.Linear(HIDDEN, 1, bias=False)

    @classmethod
    def of(cls, net: AisNet) -> AffinityCritic:
        """A new one of a network's sizes."""
        return cls(net.space.count, net.selector.code_size)

    def forward(self, code: Tensor, evidence: Tensor, antibodies: Tensor) -> Tensor:
        """Predicts the affinity, higher is better, up to a constant of each face.

        Args:
            code: [N, C].
            evidence: c / sqrt(eigenvalue), [N, K].
            antibodies: [M, N, K].

        Returns:
            [M, N].
        """
        size = evidence.abs().clamp_max(5)
        energy = (evidence.square() + 1e-3).log()
        features = torch.stack([torch.ones_like(size), size, energy])
        matrix = torch.einsum("fnk,fkh->nkh", features, self.genes)
        hidden = antibodies.transpose(0, 1) @ matrix + self.code(code)[:, None]
        judged: Tensor = self.head(nn.functional.leaky_relu(hidden, SLOPE)).squeeze(2).T
        return judged

    def judge(self, net: AisNet, sensed: tuple[Tensor, ...], antibodies: Tensor) -> Tensor:
        """``forward`` on what ``net.sense`` gave."""
        coefficients, _, _, code = sensed
        judged: Tensor = self(code, coefficients / net.space.eigenvalues.sqrt(), antibodies)
        return judged


def relative(affinity: Tensor) -> Tensor:
    """Affinities [M, N] less each face's own mean over its clones, over the spread of all.

    How well a face can be purified at all is of no use to a search; which clone is better is.
    """
    centred = affinity - affinity.mean(dim=0)
    result: Tensor = centred / centred.square().mean().sqrt().clamp_min(1e-12)
    return result
