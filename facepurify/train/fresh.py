"""Attacks made within a training step, for those that a pack cannot hold."""

from __future__ import annotations

import torch
from torch import Tensor

from facepurify.bench.attacks import FGSM, GOALS, PGD, Embed
from facepurify.train.attack_pack import turned
from facepurify.train.corruption import draw_strengths

__all__ = ["attack_now"]

MOST_STEPS = 3


def attack_now(
    embed: Embed, clean: Tensor, own: Tensor, generator: torch.Generator, steps: int = 0
) -> Tensor:
    """Attacks a batch with a random goal and strengths as a pack has them.

    Args:
        embed: what is attacked.
        clean: [N, 3, 112, 112] in [0, 1], on the 8-bit grid.
        own: unit embeddings [N, d] of ``clean``; the victims of an impersonation are among them,
            none its own. A single face can only dodge.
        generator: of all draws.
        steps: of PGD; 0 for 1 to 3 at random, one step being FGSM.

    Returns:
        The attacked batch, as an 8-bit file delivers it.
    """
    goal = GOALS[int(torch.randint(len(GOALS), (), generator=generator))]
    if len(own) == 1:
        goal = "dodging"  # there is no victim
    others = own.roll(1 + int(torch.randint(max(1, len(own) - 1), (), generator=generator)), 0)
    anchor = others if goal == "impersonation" else turned(own, generator)
    strength = draw_strengths(len(clean), generator)
    steps = steps or int(torch.randint(1, MOST_STEPS + 1, (), generator=generator))
    attack = FGSM() if steps == 1 else PGD(steps=steps)
    return attack(embed, clean, anchor, goal, strength, generator=generator)
