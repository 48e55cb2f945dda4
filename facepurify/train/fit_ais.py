"""Fits AIS: warm-up on noise, then rehearsal against the whole defended pipeline and a pack."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from facepurify.bench.attacks import FGSM, Embed
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.train.ais import AisNet, specificity
from facepurify.train.attack_pack import AttackPack
from facepurify.train.corruption import corrupt, sort_out
from facepurify.train.delivery import recompress_some
from facepurify.train.distributed import Workers
from facepurify.train.fresh import attack_now
from facepurify.train.loop import Loop, mean_or_nan
from facepurify.train.optimiser import Optimiser
from facepurify.train.pin import PinNet, check_share, sparsity_weight
from facepurify.train.selection import GRADIENTS, Affinity, Shift, select
from facepurify.train.shares import check_parts, check_shares

__all__ = ["ATTACKERS", "AisRecipe", "Attacker", "fit_ais", "shift_of"]

ATTACKERS = ("mixed", "published")
MEMORY_OF_ATTACKER = 0.9
PUBLISHED_EPS = 0.04 / 2 * 255  # 0.04 on [-1, 1], in units of 1/255


@dataclass(frozen=True)
class AisRecipe:
    """How AIS is trained.

    Attributes:
        steps: of the optimiser.
        batch: images a step.
        rate: peak learning rate of AdamW, one cosine down to zero.
        sparsity: rank of the eigenvalue that is lambda; a low rank prunes more.
        harm: how much worse noise is than as much lost detail (published: 1).
        reconstruction: weight of reconstruction and sparsity (summed over pixels, range 1).
        identity: gamma, weight of 1 - cos between the guides' embeddings of the purified and the
            clean image; 0 for none.
        gradient: of the selection, see ``facepurify.train.selection.select``.
        clones: antibodies an image (published: 10 to 30), but for "mean"; exact+loo needs 2.
        warmup: share of the run in which noise stands in for every attack.
        clean: share of each batch that is left clean.
        noisy: share that gets the published Gaussian noise.
        rehearsed: share that is attacked through the purifier itself, in its moving average; the
            rest has the pack's attacks.
        attacker: of the rehearsal: "mixed" is PGD of both goals and the pack's strengths,
            "published" one FGSM step of 5.1/255 away from the clean embedding.
        depth: steps of the mixed attacker; 0 for 1 to 3 at random.
        share: of what an antibody does not keep, how much is taken off (published: 1). The guides
            see it; reconstruction and sparsity go by what is kept.
        recompressed: share of all images, attacked or not, that go through JPEG last.
    """

    steps: int = 1500
    batch: int = 32
    rate: float = 1e-3
    sparsity: int = 1000
    harm: float = 60.0
    reconstruction: float = 1e-2
    identity: float = 1.0
    gradient: str = "mean"
    clones: int = 1
    warmup: float = 0.1
    clean: float = 0.3
    noisy: float = 0.1
    rehearsed: float = 0.3
    attacker: str = "mixed"
    depth: int = 0
    share: float = 1.0
    recompressed: float = 0.3

    def __post_init__(self) -> None:
        for name, value, known in (
            ("gradient", self.gradient, GRADIENTS),
            ("attacker", self.attacker, ATTACKERS),
        ):
            if value not in known:
                raise OptionError(f"expected {name} {', '.join(known)}, got {value!r}")
        check_parts(clean=self.clean, noisy=self.noisy, rehearsed=self.rehearsed)
        check_shares(warmup=self.warmup, recompressed=self.recompressed)
        check_share(self.share)
        least = 2 if self.gradient == "exact+loo" else 1
        if self.clones < least or self.depth < 0 or self.batch < 2:
            raise OptionError(
                f"expected clones >= {least} for {self.gradient}, depth >= 0 and batch >= 2, "
                f"got {self.clones}, {self.depth} and {self.batch}"
            )


class Attacker:
    """The moving average of a purifier, which rehearsal attacks (AIS, section 3.5).

    Args:
        net: the purifier that learns.
    """

    def __init__(self, net: PinNet) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    @torch.no_grad()
    def follow(self, net: PinNet) -> None:
        """Moves a tenth of the way to where the purifier is now."""
        for mine, other in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.lerp_(other, 1 - MEMORY_OF_ATTACKER)
        for state, wanted in zip(self.net.buffers(), net.buffers(), strict=True):
            state.copy_(wanted)

    def attack(
        self,
        embed: Embed,
        clean: Tensor,
        own: Tensor,
        recipe: AisRecipe,
        generator: torch.Generator,
    ) -> Tensor:
        """Attacks a batch through the mean antibody, without labels.

        Args:
            embed: the guide's, from images in [0, 1] to unit embeddings.
            clean: [N, 3, 112, 112] in [0, 1], on the 8-bit grid.
            own: [N, d], unit embeddings of ``clean``.
            recipe: says how.
            generator: of all draws.
        """

        def defended(x: Tensor) -> Tensor:
            return embed(self.net.purify(x))

        if recipe.attacker == "published":
            fgsm = FGSM()
            return fgsm(defended, clean, own, "dodging", PUBLISHED_EPS, generator=generator)
        return attack_now(defended, clean, own, generator, recipe.depth)


def shift_of(
    net: PinNet, embed: Embed, seen: Tensor, coefficients: Tensor, wanted: Tensor
) -> Shift:
    """1 - cos between what a guide sees under each antibody and what it should see.

    Args:
        net: keeps.
        embed: the guide's.
        seen: the images, [N, 3, 112, 112].
        coefficients: theirs, [N, K].
        wanted: unit embeddings of the clean images, [N, d].

    Returns:
        Antibodies [C, N, K] to [C, N], all clones of all images in one call of the guide.
    """

    def shift(antibodies: Tensor) -> Tensor:
        images = seen.expand(len(antibodies), *seen.shape).flatten(0, 1)
        purified = net.keep(images, (antibodies * coefficients).flatten(0, 1))
        embeddings = embed(purified).unflatten(0, antibodies.shape[:2])
        result: Tensor = 1 - (embeddings * wanted).sum(dim=2)
        return result

    return shift


def fit_ais(
    net: AisNet,
    pack: AttackPack,
    guides: Sequence[Recognizer],
    recipe: AisRecipe,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    device: str = "cpu",
    workers: Workers | None = None,
) -> None:
    """Trains ``net`` in place; the run (checkpoint, log, curve) lies in ``folder``.

    The guides take turns, a step each. They must be among those of the pack. On a GPU the guides
    run in bfloat16; the projection, whose coefficients are differences of large sums, does not.

    Args:
        net: the purifier.
        pack: clean and attacked faces.
        guides: recognizers on ``device``.
        recipe: how.
        folder: of the run.
        seed: of the run.
        resume: go on with the run in ``folder``.
        device: of torch.
        workers: the other processes of the run.

    Raises:
        OptionError: a guide is none of the pack's.
    """
    workers = workers or Workers()
    places = [pack.index(guide) for guide in guides]
    net.take_off(recipe.share)
    net.to(device).train()
    workers.agree(net)
    optimiser = Optimiser(net.parameters(), recipe.rate, recipe.steps, workers=workers)
    price = sparsity_weight(net.space.eigenvalues, recipe.sparsity)
    attacker = Attacker(net)
    loop = Loop(
        workers.folder(folder),
        {"net": net, "attacker": attacker.net, **optimiser.parts},
        recipe,
        seed=workers.seed(seed),
        resume=resume,
        sources=pack.sources(guides),
    )
    for step, generator in loop:
        which = step % len(guides)
        embed = _embed_of(guides[which], device)
        rows, mirrored, clean, packed = pack.draw(recipe.batch, generator)
        wanted = pack.embedded(places[which], rows, mirrored=mirrored).to(device)
        warm = step < recipe.warmup * recipe.steps
        kinds = _kinds(recipe, generator, warm=warm)
        seen = corrupt(clean, packed, kinds, generator).to(device)
        clean, kinds = clean.to(device), {name: rows.to(device) for name, rows in kinds.items()}
        chosen = kinds["rehearsed"]
        if bool(chosen.any()):
            seen[chosen] = attacker.attack(embed, clean[chosen], wanted[chosen], recipe, generator)
        seen = recompress_some(seen, recipe.recompressed, generator)
        coefficients, probability, suspicion, code = net.sense(seen)
        with torch.no_grad():
            target = net.space.encode(clean)
        affinity = Affinity(
            target, coefficients, price, recipe.harm, recipe.reconstruction, recipe.identity,
            shift_of(net, embed, seen, coefficients, wanted),
        )  # fmt: skip
        selected, loss = select(probability, affinity, recipe.gradient, recipe.clones, generator)
        hostile = kinds["rehearsed"] | kinds["attacked"]
        alarm = nn.functional.binary_cross_entropy_with_logits(suspicion, hostile.float())
        optimiser.step(selected.mean() + 0.1 * alarm)
        net.remember(code)
        attacker.follow(net)
        antibody = (probability > 0.5).float()
        loop.log(
            affinity_clean=mean_or_nan(loss[kinds["clean"]]),
            affinity_noisy=mean_or_nan(loss[kinds["noisy"]]),
            affinity_attacked=mean_or_nan(loss[kinds["attacked"]]),
            affinity_rehearsed=mean_or_nan(loss[kinds["rehearsed"]]),
            sparsity_clean=mean_or_nan(antibody[kinds["clean"]].sum(dim=1)),
            sparsity_hostile=mean_or_nan(antibody[hostile].sum(dim=1)),
            specificity=float(specificity(antibody)),
            mutation=float((probability.detach() - 0.5).abs().mean()),
            alarm=float(alarm.detach()),
        )
    net.eval()


def _embed_of(guide: Recognizer, device: str) -> Embed:
    """The guide's embedding, in mixed precision on a GPU."""
    kind = torch.device(device).type

    def embed(x: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            return guide.embed(x).float()

    return embed


def _kinds(recipe: AisRecipe, generator: torch.Generator, *, warm: bool) -> dict[str, Tensor]:
    """Which images are clean, noisy, rehearsed or attacked from the pack."""
    shares = {name: getattr(recipe, name) for name in ("clean", "noisy", "rehearsed")}
    kinds = sort_out(recipe.batch, shares, generator)
    if warm:
        nothing = torch.zeros(recipe.batch, dtype=torch.bool)
        return {
            "clean": kinds["clean"], "noisy": ~kinds["clean"],
            "rehearsed": nothing, "attacked": nothing,
        }  # fmt: skip
    return kinds
