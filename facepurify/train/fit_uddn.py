"""Fits UDDN: the guides' distance between purified and clean, on attacks old, fresh or adaptive."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from facepurify.bench.attacks import Embed
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.train.attack_pack import AttackPack
from facepurify.train.corruption import DrawNoise, corrupt, sort_out
from facepurify.train.delivery import recompress_some
from facepurify.train.fresh import attack_now, discolour_some, others, rehearse
from facepurify.train.guide import Guide
from facepurify.train.immune import ImmuneNet
from facepurify.train.loop import Loop, mean_or_nan
from facepurify.train.optimiser import Optimiser
from facepurify.train.pin import expected_loss, mean_mask, sparsity_weight
from facepurify.train.shares import check_parts, check_shares
from facepurify.train.uddn import UddnNet

__all__ = [
    "DISTANCES",
    "UddnRecipe",
    "distances",
    "evasion",
    "fit_uddn",
    "leftover",
    "projected",
]

DISTANCES = ("cosine", "l1", "feature")
STRANGE, RETURN = 0.1, 0.25  # cosine between strangers, and weight of getting back to oneself


@dataclass(frozen=True)
class UddnRecipe:
    """How UDDN is trained.

    Attributes:
        steps: of the optimiser.
        batch: images a step.
        rate: peak learning rate of AdamW, one cosine down to zero.
        distance: between what a guide sees in the purified and in the clean image: "l1" of the
            embeddings (published, l = -1), "feature", L1 of the feature before it (published,
            l = -2), or "cosine" of the embeddings.
        pixel: weight of the mean absolute difference of the pixels, in grey levels (published: 0).
        lean: weight of what is left of an attack along the way by which it moved the embedding.
            Taking off too much of it costs nothing here, so that a network that is unsure how
            much there is learns to err on that side. Steps that rehearse go without it.
        alarm: weight of the suspicion's cross entropy.
        clean: share of each batch that is left clean.
        noisy: share that gets PIN's Gaussian noise.
        sensor: share that gets a camera's noise, up to the strength of attacks, which is no alarm.
        band: share that gets noise of a random band of frequencies.
        square: share that gets the stripes and squares of a black-box search.
        generated: share that gets noise of GNR; the rest is attacked.
        recompressed: share of all images, attacked or not, that go through JPEG last.
        matched: a guide judges only attacks that were made on itself. What was made on another it
            hardly sees, so such steps teach that there is nothing to take off.
        fresh: share of the steps whose attacks are made in the step, by 1 to 3 steps of PGD.
        redraw: share of those on a guide whose last layer is drawn anew.
        grey: share of the attacks whose noise loses its colour. Coloured grain is what a network
            that sees nothing else knows attacks by.
        rehearse: steps of fresh impersonations through the purifier itself, or that part of it
            which the step judges; 0 for attacks on the guide alone. What counts then is that the
            victim's embedding is not reached. The statistics of batch norm stand still, so that the
            network attacked is the one that learns.
        settled: keep the statistics of batch norm in any case.
        frozen: leave the denoiser as it is, where a projection follows it: its selector learns.
        direct: share of the steps that judge the denoiser's own output, where a projection
            follows it, so that it is of use without one.
        reconstruction: weight of PIN's expected loss in the other steps, where a projection
            follows: what the denoiser leaves in an eigenface counts as that eigenface is kept.
        harm: in that loss, how much worse noise is than as much lost detail.
        sparsity: in that loss, rank of the eigenvalue that is lambda.
    """

    steps: int = 3000
    batch: int = 32
    rate: float = 2e-3
    distance: str = "cosine"
    pixel: float = 0.02
    lean: float = 0.0
    alarm: float = 0.05
    clean: float = 0.25
    noisy: float = 0.05
    sensor: float = 0.0
    band: float = 0.1
    square: float = 0.0
    generated: float = 0.0
    recompressed: float = 0.3
    matched: bool = False
    fresh: float = 0.0
    redraw: float = 0.0
    grey: float = 0.0
    rehearse: int = 0
    settled: bool = False
    frozen: bool = False
    direct: float = 0.0
    reconstruction: float = 0.0
    harm: float = 60.0
    sparsity: int = 1000

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise OptionError(
                f"expected a distance of {', '.join(DISTANCES)}, got {self.distance!r}"
            )
        check_parts(**self.shares)
        check_shares(
            recompressed=self.recompressed, direct=self.direct,
            fresh=self.fresh, redraw=self.redraw, grey=self.grey,
        )  # fmt: skip
        if self.frozen and self.direct:
            raise OptionError(
                "expected direct of 0 with frozen, under which the denoiser alone learns nothing, "
                f"got {self.direct}"
            )
        if self.rehearse < 0 or self.reconstruction < 0:
            raise OptionError(
                "expected rehearse and reconstruction of 0 or more, "
                f"got {self.rehearse} and {self.reconstruction}"
            )
        if not 0 <= self.lean < math.inf or (self.lean and self.distance == "feature"):
            raise OptionError(
                "expected a finite lean of 0 or more, and with one a distance of embeddings, "
                f"got {self.lean} and {self.distance}"
            )
        if (self.redraw or self.rehearse) and not self.fresh:
            raise OptionError(
                "expected a share of fresh attacks above 0 to redraw or rehearse, got fresh 0"
            )
        if self.rehearse and (self.batch < 2 or self.distance == "feature"):
            raise OptionError(
                "expected a batch with victims, of 2 or more, and a distance of embeddings to "
                f"rehearse, got {self.batch} and {self.distance}"
            )

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the kinds of images that are not attacked."""
        names = ("clean", "noisy", "sensor", "band", "square", "generated")
        return {name: getattr(self, name) for name in names}

    @property
    def keeps_statistics(self) -> bool:
        """Whether those of batch norm stay as they are."""
        return self.settled or self.frozen or self.rehearse > 0


def fit_uddn(
    net: UddnNet,
    pack: AttackPack,
    recognizers: Sequence[Recognizer],
    recipe: UddnRecipe,
    folder: str | Path,
    *,
    draw_noise: DrawNoise | None = None,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Trains ``net`` in place; the run (checkpoint, log, curve) lies in ``folder``.

    The guides take turns, a step each.

    Args:
        net: the denoiser.
        pack: clean and attacked faces.
        recognizers: the guides, of those that the pack's attacks were made on.
        recipe: how.
        folder: of the run.
        draw_noise: GNR's: strengths [n] in units of 1/255 to noise [n, 3, 112, 112] on the scale
            of [0, 1].
        seed: of the run.
        resume: go on with the run in ``folder``.

    Raises:
        OptionError: a guide is none of the pack's, or none of the attacks that it is to judge was
            made on it; generated noise is asked for without GNR or the reverse, or what only an
            :class:`ImmuneNet` has of a plain denoiser.
    """
    if not isinstance(net, ImmuneNet) and (recipe.direct or recipe.reconstruction or recipe.frozen):
        raise OptionError(
            "expected direct and reconstruction of 0, and frozen off, for a denoiser without a "
            f"projection, got {recipe.direct}, {recipe.reconstruction} and {recipe.frozen}"
        )
    places = [pack.index(recognizer) for recognizer in recognizers]
    if recipe.matched:
        pack.check_victims(places)
    if (draw_noise is None) != (recipe.generated == 0):
        raise OptionError("expected a GNR run if, and only if, a share of the noise is generated")
    guides = [Guide(recognizer) for recognizer in recognizers]
    net.to(memory_format=torch.channels_last)
    if recipe.frozen:
        net.unet.requires_grad_(False)
        net.suspicion.requires_grad_(False)
    net.train(not recipe.keeps_statistics)
    optimiser = Optimiser(net.parameters(), recipe.rate, recipe.steps)
    parts = {"net": net, **optimiser.parts}
    sources = pack.sources(recognizers)
    loop = Loop(folder, parts, recipe, seed=seed, resume=resume, sources=sources)
    for step, generator in loop:
        which = step % len(guides)
        guide = guides[which]
        rows, mirrored, clean, attacked = pack.draw(
            recipe.batch, generator, places[which] if recipe.matched else None
        )
        target = pack.embedded(places[which], rows, mirrored=mirrored)
        embed: Embed = guide.embed
        direct = _chance(recipe.direct, generator)
        judged = net.denoise if direct else net
        fresh = _chance(recipe.fresh, generator)
        if fresh and _chance(recipe.redraw, generator):
            embed = guide.redrawn(clean, generator)
            with torch.no_grad():
                target = embed(clean)
        kinds = sort_out(len(clean), recipe.shares, generator)
        chosen = kinds["attacked"]
        victims = others(target, generator)[chosen] if fresh and recipe.rehearse else None
        if fresh and bool(chosen.any()):
            attacked[chosen] = (
                attack_now(embed, clean[chosen], target[chosen], generator)
                if victims is None
                else rehearse(
                    _through(judged, embed), clean[chosen], victims, generator, recipe.rehearse
                )
            )
        attacked = discolour_some(clean, attacked, recipe.grey, generator)
        seen = corrupt(clean, attacked, kinds, generator, draw_noise)
        seen = recompress_some(seen, recipe.recompressed, generator)
        seen = seen.contiguous(memory_format=torch.channels_last)
        if direct or not (recipe.reconstruction and isinstance(net, ImmuneNet)):
            purified, suspicion = judged(seen)
            published = torch.zeros(())
        else:
            purified, suspicion, published = projected(net, seen, clean, recipe)
        if recipe.distance == "feature" and embed == guide.embed:
            distance = _feature_distance(guide, purified, clean)
        else:
            embedded = embed(purified)
            distance = distances(embedded, target, recipe.distance)
            if victims is not None:
                missed = evasion(embedded[chosen], target[chosen], victims)
                distance = distance.index_put((chosen,), missed)
            elif recipe.lean:
                with torch.no_grad():
                    moved = embed(seen[chosen])
                left = leftover(embedded[chosen], target[chosen], moved)
                distance = distance.index_put((chosen,), recipe.lean * left, accumulate=True)
        pixel = 255 * (purified - clean).abs().mean()
        hostile = chosen | kinds["square"] | kinds["generated"]
        alarm = nn.functional.binary_cross_entropy_with_logits(suspicion, hostile.float())
        loss = distance.mean() + recipe.pixel * pixel + recipe.alarm * alarm
        optimiser.step(loss + recipe.reconstruction * published)
        loop.log(
            distance_attacked=mean_or_nan(distance[chosen]),
            distance_clean=mean_or_nan(distance[kinds["clean"]]),
            direct=float(direct),
            psnr_clean=_psnr(purified[kinds["clean"]], seen[kinds["clean"]]),
            pixel=float(pixel.detach()),
            published_loss=float(published.detach()),
            alarm=float(alarm.detach()),
        )
    net.eval()


def distances(purified: Tensor, clean: Tensor, kind: str) -> Tensor:
    """The distance [N] between unit embeddings [N, d].

    Args:
        purified: of the purified images.
        clean: of the clean ones.
        kind: "cosine" for 1 - cos; else L1 over sqrt(d), so that the length of an embedding does
            not matter.

    >>> import torch
    >>> distances(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), "cosine").tolist()
    [1.0]
    """
    if kind == "cosine":
        return 1 - (purified * clean).sum(dim=1)
    return (purified - clean).abs().sum(dim=1) / math.sqrt(purified.shape[1])


def evasion(purified: Tensor, own: Tensor, victims: Tensor) -> Tensor:
    """How far purified impersonations are from missing their victims, [N].

    relu(cos to the victim - 0.1) + (1 - cos to the own) / 4, on unit embeddings [N, d]. Somebody
    who knows the purifier can always dodge, so a loss that asked for the own embedding first would
    spend itself on that.
    """
    near = (purified * victims).sum(dim=1)
    return nn.functional.relu(near - STRANGE) + RETURN * distances(purified, own, "cosine")


def leftover(purified: Tensor, clean: Tensor, attacked: Tensor) -> Tensor:
    """How far purified embeddings still lie on the attack's side of the clean ones, [N].

    relu((purified - clean) . u), u the unit vector from the clean to the attacked embedding; all
    are unit embeddings [N, d].

    >>> import torch
    >>> clean, attacked = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[1.0, 0.5]] * 2)
    >>> leftover(torch.tensor([[1.0, 0.25], [1.0, -0.25]]), clean, attacked).tolist()
    [0.25, 0.0]
    """
    way = nn.functional.normalize(attacked - clean, dim=1)
    return nn.functional.relu(((purified - clean) * way).sum(dim=1))


def projected(
    net: ImmuneNet, seen: Tensor, clean: Tensor, recipe: UddnRecipe
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``net`` makes of the images, and PIN's expected loss over both its parts.

    Args:
        net: denoiser and projection.
        seen: [N, 3, 112, 112] RGB in [0, 1].
        clean: what was to come out.
        recipe: whose ``harm`` and ``sparsity`` count.

    Returns:
        Purified images, the suspicion's logit [N], and the loss, a mean over the images.
    """
    purified, coefficients, probability, suspicion = net.restore(seen, mean_mask)
    with torch.no_grad():
        target = net.space.encode(clean)
    price = sparsity_weight(net.space.eigenvalues, recipe.sparsity)
    lost = expected_loss(probability, target, coefficients, price, recipe.harm)
    return purified, suspicion, lost.mean()


def _feature_distance(guide: Guide, purified: Tensor, clean: Tensor) -> Tensor:
    """L1 between features over the clean feature's own: guides differ in scale."""
    with torch.no_grad():
        wanted = guide.feature(clean)
    difference = (guide.feature(purified) - wanted).abs().sum(dim=1)
    return difference / wanted.abs().sum(dim=1).clamp_min(1e-6)


def _through(judged: Callable[[Tensor], tuple[Tensor, Tensor]], embed: Embed) -> Embed:
    """What an attacker attacks who knows the purifier, or the part of it that is judged."""
    return lambda x: embed(judged(x)[0])


def _chance(share: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < share


def _psnr(images: Tensor, wanted: Tensor) -> float:
    """In dB; NaN without an image, bounded where nothing changed at all."""
    error = (images.detach() - wanted).square()
    return float(-10 * error.mean().clamp_min(1e-10).log10()) if len(images) else float("nan")
