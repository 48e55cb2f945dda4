"""Which gradient of the selection is the better: its variance, its time, and where it leads."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.files import atomic_path, make_folder
from facepurify.train.ais import AisNet
from facepurify.train.attack_pack import AttackPack
from facepurify.train.fit_ais import AisRecipe, shift_of
from facepurify.train.optimiser import Optimiser
from facepurify.train.pin import sparsity_weight
from facepurify.train.selection import GRADIENTS, Affinity, clone, select

__all__ = ["StudyRecipe", "study_selection"]

MOST_STEPS = 100_000


@dataclass(frozen=True)
class StudyRecipe:
    """How the gradients are compared.

    Attributes:
        repeats: gradients of each kind on one batch.
        reference: clones an image of the reference, the unbiased gradient with the least noise.
        batch: images.
        clones: antibodies an image.
        seconds: of training with each kind, evaluation not counted.
        every: seconds between evaluations.
        held_out: images at the pack's end, to evaluate on.
    """

    repeats: int = 12
    reference: int = 64
    batch: int = 16
    clones: int = 4
    seconds: float = 60.0
    every: float = 5.0
    held_out: int = 64

    def __post_init__(self) -> None:
        if min(self.repeats, self.reference, self.clones, self.batch, self.held_out) < 2:
            raise OptionError(
                f"expected repeats, reference, clones, batch and held_out of 2 or more, got {self}"
            )


def study_selection(
    net: AisNet,
    pack: AttackPack,
    guide: Recognizer,
    study: StudyRecipe,
    recipe: AisRecipe,
    folder: str | Path,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes ``gradient.json`` and ``gradient.png``.

    Half of each batch is clean, half has the pack's attacks. Variance and bias are over the
    parameters of the whole network, relative to the squared length (the length) of the reference
    gradient; the loss is the mean affinity of clones drawn from Bernoulli(p) on held-out images.

    Args:
        net: where all begin; not changed.
        pack: clean and attacked faces.
        guide: one of the pack's.
        study: how they are compared.
        recipe: weights of the affinity, and the rate.
        folder: for the two files.
        seed: of everything.

    Returns:
        What ``gradient.json`` holds: for each gradient its ``variance``, ``bias`` (the distance of
        its mean from the reference), the ``floor`` below which a bias says nothing, since the
        reference itself errs by that, ``seconds``, and ``curve`` of (seconds, steps, loss).

    Raises:
        OptionError: the pack is too small, or the guide is none of its.
    """
    if len(pack) <= study.held_out + study.batch:
        raise OptionError(
            f"expected a pack of more than {study.held_out + study.batch} faces, got {len(pack)}"
        )
    price = sparsity_weight(net.space.eigenvalues, recipe.sparsity)
    task = _Task(pack, guide, pack.index(guide), recipe, price)
    rows = torch.arange(study.batch)
    still = copy.deepcopy(net).eval()
    drawn = torch.stack(
        [
            _gradient(still, task, rows, "exact+loo", study.reference, seed + 1 + number)
            for number in range(study.repeats)
        ]
    )
    reference = drawn.mean(dim=0)
    length = float(reference.norm())
    floor = (_variance(drawn) / study.repeats) ** 0.5 / length
    report: dict[str, Any] = {}
    for gradient in GRADIENTS:
        began = time.perf_counter()
        drawn = torch.stack(
            [
                _gradient(still, task, rows, gradient, study.clones, seed + 1000 + number)
                for number in range(study.repeats)
            ]
        )
        spent = (time.perf_counter() - began) / study.repeats
        report[gradient] = {
            "variance": _variance(drawn) / length**2,
            "bias": float((drawn.mean(dim=0) - reference).norm()) / length,
            "floor": floor,
            "seconds": spent,
            "curve": _train(copy.deepcopy(net), task, gradient, study, recipe, seed),
        }
    folder = make_folder(folder)
    with atomic_path(folder / "gradient.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    with atomic_path(folder / "gradient.png") as temporary:
        _draw(report, temporary)
    return report


@dataclass(frozen=True)
class _Task:
    """The affinity on rows of a pack; every other row is attacked."""

    pack: AttackPack
    guide: Recognizer
    place: int
    recipe: AisRecipe
    price: Tensor

    def __call__(self, net: AisNet, rows: Tensor) -> tuple[Tensor, Affinity]:
        clean, attacked = self.pack.images(rows, mirrored=False)
        odd = (torch.arange(len(rows)) % 2 == 1).view(-1, 1, 1, 1)
        seen = torch.where(odd, attacked, clean)
        coefficients, probability, _, _ = net.sense(seen)
        with torch.no_grad():
            target = net.space.encode(clean)
        wanted = self.pack.embedded(self.place, rows, mirrored=False)
        shift = shift_of(net, self.guide.embed, seen, coefficients, wanted)
        recipe = self.recipe
        affinity = Affinity(
            target, coefficients, self.price, recipe.harm, recipe.reconstruction,
            recipe.identity, shift,
        )  # fmt: skip
        return probability, affinity


def _gradient(
    net: AisNet, task: _Task, rows: Tensor, gradient: str, clones: int, seed: int
) -> Tensor:
    """One draw of a gradient, by all parameters that it reaches, [D]."""
    probability, affinity = task(net, rows)
    generator = torch.Generator().manual_seed(seed)
    loss = select(probability, affinity, gradient, clones, generator)[0].mean()
    parameters = list(net.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if part is None else part).flatten()
            for parameter, part in zip(parameters, found, strict=True)
        ]
    )


def _variance(drawn: Tensor) -> float:
    """Of gradients [R, D], summed over D."""
    return float(drawn.var(dim=0).sum())


def _train(
    net: AisNet, task: _Task, gradient: str, study: StudyRecipe, recipe: AisRecipe, seed: int
) -> list[list[float]]:
    generator = torch.Generator().manual_seed(seed)
    optimiser = Optimiser(net.parameters(), recipe.rate, MOST_STEPS, rise=1e-4)
    training = len(task.pack) - study.held_out
    spent, steps = 0.0, 0
    curve = [[spent, steps, _loss(net, task, training)]]
    while spent < study.seconds:
        began = time.perf_counter()
        while time.perf_counter() - began < study.every:
            rows = torch.randint(training, (study.batch,), generator=generator)
            probability, affinity = task(net, rows)
            optimiser.step(
                select(probability, affinity, gradient, study.clones, generator)[0].mean()
            )
            steps += 1
        spent += time.perf_counter() - began
        curve.append([spent, steps, _loss(net, task, training)])
    return curve


@torch.no_grad()
def _loss(net: AisNet, task: _Task, first: int) -> float:
    net.train()  # by the images' own statistics: a fresh network has not gathered any
    probability, affinity = task(net, torch.arange(first, len(task.pack)))
    antibodies = clone(probability, 1, torch.Generator().manual_seed(0))
    return float(affinity(antibodies).mean())


def _draw(report: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    bars, loss, mutual = figure.subplots(1, 3)
    names = list(report)
    bars.bar(names, [report[name]["variance"] for name in names])
    bars.set_yscale("log")
    bars.set_ylabel("variance / squared length")
    bars.tick_params(axis="x", rotation=20)
    mutual.bar(names, [report[name]["bias"] for name in names], color="C1")
    mutual.axhline(report[names[0]]["floor"], color="0.5", linestyle="--")
    mutual.set_ylabel("bias / length (dashed: floor)")
    mutual.tick_params(axis="x", rotation=20)
    for name in names:
        seconds, _, values = zip(*report[name]["curve"], strict=True)
        loss.plot(seconds, values, marker=".", label=name)
    loss.set_xlabel("seconds of training")
    loss.set_ylabel("affinity as a loss, held-out images")
    loss.grid(alpha=0.3)
    loss.legend(fontsize=7)
    figure.savefig(path, format="png", dpi=120)
