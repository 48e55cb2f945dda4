"""Auto-PGD: a step size that adapts to each image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Best, Problem, per_image
from facepurify.bench.attacks.iterative import IterativeAttack

__all__ = ["APGD", "checkpoints"]

INERTIA = 0.75
RISING = 0.75


def checkpoints(steps: int) -> list[int]:
    """The steps after which the step size may be halved (Croce & Hein, section 3.2).

    >>> checkpoints(100)[:4]
    [22, 41, 57, 70]
    """
    previous, current, found = 0.0, 0.22, []
    while current < 1:
        found.append(math.ceil(round(current * steps, 6)))
        previous, current = current, current + max(current - previous - 0.03, 0.06)
    return found


@dataclass(frozen=True)
class APGD(IterativeAttack):
    """Auto-PGD (Croce & Hein, arXiv 2003.01690, algorithm 1) on the cosine.

    Steps of 2 eps at first, with inertia; at checkpoints, an image whose value has stopped
    rising goes on from its best point with half the step.
    """

    family = "apgd"

    @override
    def run(self, problem: Problem) -> Tensor:
        point = before = problem.random_start()
        image = problem.quantise(point)
        value, gradient = problem.value_and_gradient(image)
        best, best_gradient = Best(image, value), gradient
        step = 2 * problem.eps
        halved = torch.ones_like(value, dtype=torch.bool)
        best_then, rises, since = best.value, torch.zeros_like(value), 0
        marks = checkpoints(self.steps)
        for done in range(1, self.steps + 1):
            ahead = problem.project(point + step * problem.steepest(gradient))
            inertia = 1.0 if done == 1 else INERTIA
            moved = point + inertia * (ahead - point) + (1 - inertia) * (point - before)
            before, point = point, problem.project(moved)
            image = problem.quantise(point)
            if done == self.steps:
                best.update(image, problem.value(image))
                break
            last = value
            value, gradient = problem.value_and_gradient(image)
            rises = rises + (value > last)
            better = per_image(best.update(image, value))
            best_gradient = torch.where(better, gradient, best_gradient)
            if done in marks:
                stalled = (rises < RISING * (done - since)) | (~halved & (best.value == best_then))
                back = per_image(stalled)
                step = torch.where(back, step / 2, step)
                point = torch.where(back, best.levels, point)
                gradient = torch.where(back, best_gradient, gradient)
                value = torch.where(stalled, best.value, value)
                halved, best_then, rises, since = stalled, best.value, torch.zeros_like(value), done
        return best.levels
