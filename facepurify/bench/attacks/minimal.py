"""The smallest change that is enough: the minimal-norm question of Carlini & Wagner.

Asked as RobFR does (arXiv 2007.04118, section 3): the budget of an inner attack is bisected
for each image, until the smallest one at which it still succeeds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from facepurify.bench.attacks.base import Attack, Embed, Goal, per_image
from facepurify.errors import AttackError

__all__ = ["Minimal", "minimal_attack", "succeeds"]


class Minimal(NamedTuple):
    """What ``minimal_attack`` found.

    Attributes:
        images: [N, 3, H, W], the smallest successful attack; the clean image where none was.
        distance: [N], its distance from the clean image in units of 1/255, in the attack's
            norm; 0 where no attack was needed, infinite where none was found.
    """

    images: Tensor
    distance: Tensor


def succeeds(cosine: Tensor, goal: Goal, threshold: float) -> Tensor:
    """Where the verifier is fooled: below the threshold when dodging, else at or above it.

    >>> succeeds(torch.tensor([0.1, 0.3]), "dodging", 0.3)
    tensor([ True, False])
    """
    return cosine < threshold if goal == "dodging" else cosine >= threshold


def minimal_attack(
    attack: Attack,
    embed: Embed,
    x: Tensor,
    anchor: Tensor,
    goal: Goal,
    *,
    threshold: float,
    largest: float = 64.0,
    resolution: float = 1.0,
    generator: torch.Generator,
) -> Minimal:
    """Bisects, for each image, the smallest budget at which ``attack`` succeeds.

    Args:
        attack: the inner attack, such as ``PGD(steps=10)``.
        embed: as for an attack.
        x: as for an attack.
        anchor: as for an attack.
        goal: as for an attack.
        threshold: the verifier's, on the cosine.
        largest: budget to begin with; an image that withstands it has infinite distance.
        resolution: when to stop. On 8-bit images an L-inf distance is a whole number.
        generator: all randomness.

    Raises:
        AttackError: ``largest`` or ``resolution`` is not positive, or as for the attack.
    """
    if not (largest > 0 and resolution > 0):
        raise AttackError(f"expected positive budgets, got {largest} and {resolution}")

    def fooled(images: Tensor) -> Tensor:
        with torch.no_grad():
            return succeeds((embed(images) * anchor).sum(1), goal, threshold)

    found = already = fooled(x)
    images = x
    low = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    high = trial = torch.full_like(low, largest)
    for _ in range(1 + max(0, math.ceil(math.log2(largest / resolution)))):
        adversarial = attack(embed, x, anchor, goal, trial, generator=generator)
        success = fooled(adversarial) & ~already
        found = found | success
        images = torch.where(per_image(success), adversarial, images)
        low, high = torch.where(success, low, trial), torch.where(success, trial, high)
        trial = (low + high) / 2
    change = ((images - x) * 255).round().flatten(1)
    order = torch.inf if attack.norm == "linf" else 2
    distance = torch.linalg.vector_norm(change, ord=order, dim=1)
    return Minimal(images, torch.where(found, distance, torch.inf))
