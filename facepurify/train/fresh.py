"""Attacks made within a training step, for those that a pack cannot hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks import FGSM, GOALS, PGD, Embed
from facepurify.bench.attacks.base import Problem
from facepurify.bench.attacks.iterative import ascend
from facepurify.train.attack_pack import turned
from facepurify.train.corruption import draw_strengths
from facepurify.train.delivery import as_file

__all__ = ["attack_now", "discolour_some", "others", "rehearse"]

MOST_STEPS = 3
REHEARSED = (2.0, 6.0)  # strengths; what 12 leaves of a face taught a first trial nothing
REACH = 1.5  # of all steps together, in radii of the ball


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
    anchor = others(own, generator) if goal == "impersonation" else turned(own, generator)
    strength = draw_strengths(len(clean), generator)
    steps = steps or int(torch.randint(1, MOST_STEPS + 1, (), generator=generator))
    attack = FGSM() if steps == 1 else PGD(steps=steps)
    return attack(embed, clean, anchor, goal, strength, generator=generator)


def discolour_some(
    clean: Tensor, attacked: Tensor, share: float, generator: torch.Generator
) -> Tensor:
    """A share of attacks with what is left of their noise if red, green and blue move alike.

    Of three signs the majority, of other noise the sum, within the strength it had. Signs of a
    gradient become nearly those of the colours' sum, which an attack without colour goes by.

    Args:
        clean: [N, 3, H, W] in [0, 1].
        attacked: the same under attack.
        share: of the images, drawn at random.
        generator: of the draw.

    Returns:
        The attacked images, as 8-bit files deliver them.
    """
    attacked = attacked.clone()
    chosen = torch.rand(len(clean), generator=generator) < share
    noise = attacked[chosen] - clean[chosen]
    strength = noise.abs().amax(dim=(1, 2, 3), keepdim=True)
    common = noise.sum(1, keepdim=True).clamp(-strength, strength)
    attacked[chosen] = as_file(clean[chosen] + common)
    return attacked


def others(own: Tensor, generator: torch.Generator) -> Tensor:
    """A victim for each of a batch of embeddings [N, d]: another of them; its own if alone."""
    return own.roll(1 + int(torch.randint(max(1, len(own) - 1), (), generator=generator)), 0)


def rehearse(
    embed: Embed, clean: Tensor, victims: Tensor, generator: torch.Generator, steps: int
) -> Tensor:
    """Impersonations by an attacker who goes through the purifier, in few steps that reach far.

    Args:
        embed: what is attacked, purifier and recognizer.
        clean: [N, 3, 112, 112] in [0, 1], on the 8-bit grid.
        victims: unit embeddings [N, d].
        generator: of all draws.
        steps: of PGD, 1 or more.

    Returns:
        The attacked batch, at strengths of 2 to 6 of 255, as an 8-bit file delivers it.
    """
    low, high = REHEARSED
    strength = low + (high - low) * torch.rand(len(clean), generator=generator)
    attack = _FarPGD(steps=steps)
    return attack(embed, clean, victims, "impersonation", strength, generator=generator)


@dataclass(frozen=True)
class _FarPGD(PGD):
    """PGD whose steps, however few, cross the ball; the benchmark's begin with a quarter of eps."""

    @override
    def run(self, problem: Problem) -> Tensor:
        return ascend(
            problem, problem.random_start(), self.steps, lambda gradient: gradient,
            size=lambda _, problem: REACH * problem.eps / self.steps,
        )  # fmt: skip
