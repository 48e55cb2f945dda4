"""The feature attacks of MTER (Zhong & Deng, ICCV 2019, arXiv 1909.09481).

They need no class labels: the loss is the distance of embeddings. The paper's fast
feature-target attack is FGSM on the cosine, that is ``FGSM``; here are the iterative ones.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks.base import Goal, Problem
from facepurify.bench.attacks.iterative import IterativeAttack, ascend

__all__ = ["FeatureTarget", "LabelFree"]


def _one_level(step: int, problem: Problem) -> Tensor:
    return torch.ones_like(problem.eps)


@dataclass(frozen=True)
class FeatureTarget(IterativeAttack):
    """Sign steps of one grey level towards the victim's embedding, from the image itself.

    The paper stops at a cosine of 0.9; here the strongest image is kept, so that going on to
    the last step can only help.
    """

    family = "feature_target"

    @override
    def run(self, problem: Problem) -> Tensor:
        return ascend(problem, problem.clean, self.steps, lambda g: g, size=_one_level)


@dataclass(frozen=True)
class LabelFree(IterativeAttack):
    """The same away from the image's own embedding: needs neither label nor reference.

    It ignores the anchor, so it can dodge but not impersonate. The start is random, since the
    distance of an image to itself has no gradient.
    """

    goals: ClassVar[tuple[Goal, ...]] = ("dodging",)
    family = "label_free"

    @override
    def run(self, problem: Problem) -> Tensor:
        with torch.no_grad():
            own = problem.embed(problem.clean / 255)
        away = dataclasses.replace(problem, anchor=own)
        return ascend(away, problem.random_start(), self.steps, lambda g: g, size=_one_level)
