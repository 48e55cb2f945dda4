"""The loop that the gradient attacks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from facepurify.bench.attacks.base import Attack, Best, Problem

__all__ = ["IterativeAttack", "ascend", "step_size"]


def step_size(step: int, problem: Problem) -> Tensor:
    """Length of a step in grey levels, [N, 1, 1, 1].

    A quarter of eps, that is 2.5 eps / steps for ten steps, halved every ten steps down to 1/32;
    in L-inf at least one level, the grid of what is delivered. It does not depend on how
    many steps will follow, so a longer attack begins as the shorter one, and cannot end worse.
    """
    size = problem.eps / 4 * 0.5 ** min(step // 10, 3)
    return size.clamp_min(1) if problem.norm == "linf" else size


def ascend(
    problem: Problem,
    start: Tensor,
    steps: int,
    direction: Callable[[Tensor], Tensor],
    *,
    size: Callable[[int, Problem], Tensor] = step_size,
    view: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Projected steepest ascent that returns the strongest 8-bit image it has seen.

    The gradient is taken at the rounded image while the unrounded one is kept, so small steps
    add up and every value compared is that of an image which can be delivered.

    Args:
        problem: the batch.
        start: [N, 3, H, W] in grey levels.
        steps: gradient calls.
        direction: makes an ascent direction of the gradient; may keep state.
        size: length of a step, given its number from 0.
        view: how the gradient sees the image; the values compared are those of the image itself.
    """
    point = start
    best = Best(problem.clean, torch.full_like(problem.clean[:, 0, 0, 0], -torch.inf))
    for step in range(steps):
        image = problem.quantise(point)
        value, gradient = problem.value_and_gradient(image, view)
        best.update(image, value if view is None else problem.value(image))
        move = size(step, problem) * problem.steepest(direction(gradient))
        point = problem.project(point + move)
    image = problem.quantise(point)
    best.update(image, problem.value(image))
    return best.levels


@dataclass(frozen=True)
class IterativeAttack(Attack):
    """An attack of ``steps`` gradient steps."""

    count: ClassVar[str] = "steps"
    steps: int = 10
