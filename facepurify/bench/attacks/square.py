"""The Square attack: random search that sees scores only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Attack, Best, Norm, Problem

__all__ = ["Square", "square_share"]

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries


def square_share(query: int, queries: int, start: float) -> float:
    """The share of the image that the square of a query covers (section 4.1 of the paper).

    >>> square_share(0, 10_000, 0.8), square_share(60, 10_000, 0.8)
    (0.8, 0.2)
    """
    scaled = query * 10_000 / queries
    return start * 0.5 ** sum(scaled > mark for mark in _HALVINGS)


@dataclass(frozen=True)
class Square(Attack):
    """Square attack in L-inf (Andriushchenko et al., arXiv 1912.00049), black box.

    Begins with vertical stripes of +-eps, then recolours random squares with +-eps and keeps
    what raises the value. Each image costs exactly ``queries`` embeddings; no gradient is used.

    Attributes:
        queries: embeddings asked for, of each image.
        start: share of the image that the first square covers.
    """

    family = "square"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    count: ClassVar[str] = "queries"
    queries: int = 1000
    start: float = 0.8

    @override
    def run(self, problem: Problem) -> Tensor:
        channels, height, width = problem.clean.shape[1:]
        stripes = self._signs(problem, (1, channels, 1, width))
        image = problem.quantise(problem.clean + problem.eps * stripes)
        best = Best(image, problem.value(image))
        for query in range(1, self.queries):
            share = square_share(query, self.queries, self.start)
            side = min(max(round((share * height * width) ** 0.5), 1), height - 1, width - 1)
            top = problem.integer(0, height - side + 1)
            left = problem.integer(0, width - side + 1)
            window = (..., slice(top, top + side), slice(left, left + side))
            image = best.levels.clone()
            recoloured = problem.clean + problem.eps * self._signs(problem, (1, channels, 1, 1))
            image[window] = recoloured[window]
            image = problem.quantise(image)
            best.update(image, problem.value(image))
        return best.levels

    @staticmethod
    def _signs(problem: Problem, shape: tuple[int, ...]) -> Tensor:
        generator = problem.generator
        draw = torch.randint(2, shape, generator=generator, device=generator.device)
        return (2 * draw - 1).to(problem.clean)
