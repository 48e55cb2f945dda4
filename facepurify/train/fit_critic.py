"""Fits the critic of a trained AIS, whose antibodies stand still by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.train.ais import AisNet
from facepurify.train.attack_pack import AttackPack
from facepurify.train.critic import AffinityCritic, relative
from facepurify.train.delivery import recompress_some
from facepurify.train.fit_ais import shift_of
from facepurify.train.loop import Loop, weights_of
from facepurify.train.optimiser import Optimiser
from facepurify.train.pin import sparsity_weight
from facepurify.train.selection import Affinity, clone
from facepurify.train.shares import check_shares

__all__ = ["CRITIC", "CriticRecipe", "fit_critic"]

CRITIC = "critic"  # folder of its run, within the purifier's


@dataclass(frozen=True)
class CriticRecipe:
    """How the critic is trained.

    Attributes:
        steps: of the optimiser.
        batch: images a step.
        clones: antibodies of each.
        rate: peak learning rate.
        clean: share of each batch that is clean; the rest has the pack's attacks.
        recompressed: share of all images, attacked or not, that go through JPEG last.
        sparsity: rank of the eigenvalue that is lambda, as of the purifier.
        harm: as of the purifier.
        reconstruction: as of the purifier.
        identity: as of the purifier.
    """

    steps: int = 400
    batch: int = 12
    clones: int = 8
    rate: float = 3e-3
    clean: float = 0.3
    recompressed: float = 0.3
    sparsity: int = 1000
    harm: float = 60.0
    reconstruction: float = 1e-2
    identity: float = 1.0

    def __post_init__(self) -> None:
        check_shares(clean=self.clean, recompressed=self.recompressed)
        if self.clones < 2:
            raise OptionError(
                f"expected clones >= 2, since a critic compares them, got {self.clones}"
            )


def fit_critic(
    net: AisNet,
    critic: AffinityCritic,
    pack: AttackPack,
    guides: Sequence[Recognizer],
    recipe: CriticRecipe,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Trains ``critic`` in place on clones of ``net``'s antibodies and their true affinity.

    Args:
        net: the trained purifier.
        critic: of its size.
        pack: clean and attacked faces.
        guides: recognizers among those of the pack; they take turns.
        recipe: how.
        folder: of the critic's own run.
        seed: of the run.
        resume: go on with the run in ``folder``.

    Raises:
        OptionError: a guide is none of the pack's.
    """
    places = [pack.index(guide) for guide in guides]
    net.eval()
    optimiser = Optimiser(critic.parameters(), recipe.rate, recipe.steps)
    price = sparsity_weight(net.space.eigenvalues, recipe.sparsity)
    parts = {"net": critic, **optimiser.parts}
    sources = {**pack.sources(guides), "AIS": weights_of(net)}
    loop = Loop(folder, parts, recipe, seed=seed, resume=resume, sources=sources)
    for step, generator in loop:
        which = step % len(guides)
        rows, mirrored, clean, attacked = pack.draw(recipe.batch, generator)
        kept = torch.rand(recipe.batch, generator=generator) < recipe.clean
        seen = torch.where(kept.view(-1, 1, 1, 1), clean, attacked)
        with torch.no_grad():
            seen = recompress_some(seen, recipe.recompressed, generator)
            sensed = net.sense(seen)
            affinity = Affinity(
                net.space.encode(clean), sensed[0], price, recipe.harm, recipe.reconstruction,
                recipe.identity,
                shift_of(
                    net, guides[which].embed, seen, sensed[0],
                    pack.embedded(places[which], rows, mirrored=mirrored),
                ),
            )  # fmt: skip
            antibodies = clone(sensed[1], recipe.clones, generator)
            wanted = relative(-affinity(antibodies))
        judged = critic.judge(net, sensed, antibodies)
        judged = judged - judged.mean(dim=0)
        loss = nn.functional.mse_loss(judged, wanted)
        optimiser.step(loss)
        loop.log(loss=float(loss.detach()), agreement=_correlation(judged.detach(), wanted))
    critic.eval()


def _correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))
