"""Fits PIN's selector: the published loss in exact expectation, and what recognizers need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.train.attack_pack import AttackPack
from facepurify.train.corruption import corrupt, sort_out
from facepurify.train.delivery import recompress_some
from facepurify.train.loop import Loop, mean_or_nan
from facepurify.train.optimiser import Optimiser
from facepurify.train.pin import (
    PinNet,
    expected_loss,
    mean_mask,
    policy_gradient_loss,
    sparsity_weight,
)
from facepurify.train.shares import check_parts, check_shares

__all__ = ["PinRecipe", "fit_pin"]

PUBLISHED_MASKS = 30


@dataclass(frozen=True)
class PinRecipe:
    """How PIN is trained.

    Attributes:
        steps: of the optimiser.
        batch: images a step.
        rate: peak learning rate of AdamW, one cosine down to zero.
        sparsity: rank of the eigenvalue that is lambda; a low rank prunes more.
        harm: how much worse noise is than as much lost detail (published: 1).
        reconstruction: weight of the published loss (summed over pixels, range 1).
        identity: weight of 1 - cos between the guides' embeddings of the purified and clean image.
        clean: share of each batch that is left clean.
        noisy: share that gets the published Gaussian noise; the rest is attacked.
        recompressed: share of all images, attacked or not, that go through JPEG last.
        gradient: "expected" (exact) or "policy" (published REINFORCE, 30 masks an image).
    """

    steps: int = 3000
    batch: int = 48
    rate: float = 1e-3
    sparsity: int = 1000
    harm: float = 60.0
    reconstruction: float = 1e-2
    identity: float = 1.0
    clean: float = 0.3
    noisy: float = 0.1
    recompressed: float = 0.3
    gradient: str = "expected"

    def __post_init__(self) -> None:
        if self.gradient not in ("expected", "policy"):
            raise OptionError(f"expected gradient expected or policy, got {self.gradient!r}")
        check_parts(clean=self.clean, noisy=self.noisy)
        check_shares(recompressed=self.recompressed)


def fit_pin(
    net: PinNet,
    pack: AttackPack,
    guides: Sequence[Recognizer],
    recipe: PinRecipe,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Trains ``net`` in place; the run (checkpoint, log, curve) lies in ``folder``.

    The guides take turns, a step each.

    Raises:
        OptionError: a guide is none of those that the pack's attacks were made on.
    """
    places = [pack.index(guide) for guide in guides]
    optimiser = Optimiser(net.parameters(), recipe.rate, recipe.steps)
    price = sparsity_weight(net.space.eigenvalues, recipe.sparsity)
    net.train()
    parts = {"net": net, **optimiser.parts}
    sources = pack.sources(guides)
    loop = Loop(folder, parts, recipe, seed=seed, resume=resume, sources=sources)
    for step, generator in loop:
        rows, mirrored, clean, attacked = pack.draw(recipe.batch, generator)
        shares = {"clean": recipe.clean, "noisy": recipe.noisy}
        kinds = sort_out(recipe.batch, shares, generator)
        is_attacked = kinds["attacked"]
        seen = corrupt(clean, attacked, kinds, generator)
        seen = recompress_some(seen, recipe.recompressed, generator)
        purified, coefficients, probability, suspicion = net.restore(seen, mean_mask)
        with torch.no_grad():
            target = net.space.encode(clean)
        if recipe.gradient == "policy":
            published = policy_gradient_loss(
                probability, target, coefficients, price, recipe.harm, PUBLISHED_MASKS, generator
            ).mean()
        else:
            published = expected_loss(probability, target, coefficients, price, recipe.harm).mean()
        which = step % len(guides)
        wanted = pack.embedded(places[which], rows, mirrored=mirrored)
        shift = 1 - (guides[which].embed(purified) * wanted).sum(dim=1)
        alarm = nn.functional.binary_cross_entropy_with_logits(suspicion, is_attacked.float())
        loss = recipe.reconstruction * published + recipe.identity * shift.mean() + 0.1 * alarm
        optimiser.step(loss)
        loop.log(
            published_loss=float(published.detach()),
            shift_attacked=mean_or_nan(shift[is_attacked]),
            shift_clean=mean_or_nan(shift[~is_attacked]),
            active_attacked=mean_or_nan(probability[is_attacked].sum(dim=1)),
            active_clean=mean_or_nan(probability[~is_attacked].sum(dim=1)),
            alarm=float(alarm.detach()),
        )
    net.eval()
