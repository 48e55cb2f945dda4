"""Clean cost against strength on held-out training faces: where a purifier's settings are chosen.

The benchmark's own data (LFW) is never looked at for a choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm
from typing_extensions import override

from facepurify.bench.adaptive import AdaptiveAttack, Scene
from facepurify.bench.attacks import (
    FGSM,
    GOALS,
    PGD,
    Attack,
    Blocks,
    Goal,
    Graded,
    Grey,
    GreyBlocks,
    Reversed,
    Stripes,
)
from facepurify.bench.defences import Defence, PurifierDefence, get_defence
from facepurify.bench.metrics import attack_success, cosine, frr, threshold_at_far
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.run import check_names
from facepurify.errors import DataError, OptionError
from facepurify.files import atomic_path, make_folder
from facepurify.purifier import Purifier
from facepurify.train.basis import Basis
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.loop import weights_of

__all__ = [
    "EPS",
    "FIXED",
    "Floats",
    "Purify",
    "Trial",
    "after",
    "choose",
    "held_out_trial",
    "load_purifiers",
    "oblivious",
    "on_arrays",
    "on_tensors",
]

FIXED = ((400, 130), (600, 200), (800, 230), (1000, 270), (1300, 300), (1500, 400))
EPS = 8.0
CHUNK = 64
Floats = npt.NDArray[np.float32]
Purify = Callable[[Floats], Floats]


def oblivious(steps: int) -> tuple[Attack, ...]:
    """One attack of each kind that a purifier is judged by, made without knowledge of it.

    Args:
        steps: of those that iterate.
    """
    return (
        FGSM(), PGD(steps=steps), Blocks(steps=steps), Graded(steps=steps), Grey(steps=steps),
        GreyBlocks(steps=steps), Stripes(steps=steps),
    )  # fmt: skip


# The last is of one who knows that more is taken off than was found: what an overshoot costs.
ATTACKS = (*oblivious(steps=20), Reversed(steps=20))


@dataclass(frozen=True)
class Trial:
    """One recognizer on held-out faces: clean pairs, a threshold, attacked probes.

    Attributes:
        recognizer: the judge, which was also attacked.
        threshold: at the false accept rate asked for, without a purifier.
        eps: of the attacks, L-infinity in grey levels.
        clean: for each goal, probes [N, 3, 112, 112] in [0, 1] and their galleries' embeddings:
            genuine pairs for dodging, impostors for impersonation.
        attacked: the same for each (attack, goal), of the first of these pairs.
    """

    recognizer: Recognizer
    threshold: float
    eps: float
    clean: dict[Goal, tuple[Floats, Floats]]
    attacked: dict[tuple[str, str], tuple[Floats, Floats]]

    def judge(self, purify: Purify) -> dict[str, float]:
        """Genuine rejected and the success of each attack, as fractions."""
        scores = self._scores(purify, *self.clean["dodging"])
        result = {"genuine rejected": frr(scores, self.threshold)}
        for (attack, goal), pairs in self.attacked.items():
            scores = self._scores(purify, *pairs)
            result[f"{attack} {goal}"] = attack_success(scores, self.threshold, goal).value
        return result

    def against(self, defence: Defence, pairs: int, *, seed: int = 0) -> Trial:
        """The same, attacked by one who knows the defence as well: the benchmark's adaptive attack.

        Args:
            defence: to attack through; what is judged then should be it.
            pairs: of each kind, that are attacked so.
            seed: of the attack.
        """
        generator = torch.Generator().manual_seed(seed)
        attack = AdaptiveAttack()
        attacked = dict(self.attacked)
        for goal, (probes, galleries) in self.clean.items():
            x, victims = torch.from_numpy(probes[:pairs]), galleries[:pairs]
            scene = Scene(self.recognizer, defence, x, torch.from_numpy(victims), goal)
            images = attack(scene, self.eps, generator=generator).numpy()
            attacked[attack.name, goal] = (images, victims)
        return replace(self, attacked=attacked)

    def _scores(self, purify: Purify, probes: Floats, galleries: Floats) -> npt.NDArray[np.float64]:
        return cosine(self.recognizer.embed_numpy(purify(probes)), galleries)


def held_out_trial(
    faces: FaceSet,
    recognizer: Recognizer,
    *,
    pairs: int = 1000,
    attacked: int = 200,
    attacks: Sequence[Attack] = ATTACKS,
    eps: float = EPS,
    far: float = 0.01,
    seed: int = 0,
) -> Trial:
    """Draws pairs from held-out identities and attacks some of their probes.

    Args:
        faces: those that are held out are used.
        recognizer: the judge; it is also attacked.
        pairs: clean pairs of each kind.
        attacked: of those, pairs that are attacked too.
        attacks: on both goals.
        eps: their L-infinity strength in grey levels.
        far: false accept rate at which the threshold lies, from the clean impostor pairs.
        seed: of the draw and of the attacks.

    Raises:
        DataError: fewer than two held-out identities have several images.
        OptionError: no pairs, or none of them attacked.
    """
    if min(pairs, attacked) < 1:
        raise OptionError(f"expected pairs and attacked of 1 or more, got {pairs} and {attacked}")
    identities: dict[str, list[int]] = {}
    for index in faces.validation:
        if Path(faces.names[index]).parts[2:]:
            identities.setdefault(faces.identity(int(index)), []).append(int(index))
    people = [images for images in identities.values() if len(images) > 1]
    if len(people) < 2:
        raise DataError(
            "expected two held-out identities (folders below a set's own) with several images, "
            f"got {len(people)}"
        )
    rng = np.random.default_rng(seed)
    genuine = np.array(
        [rng.choice(people[rng.integers(len(people))], 2, replace=False) for _ in range(pairs)]
    )
    impostor = np.array(
        [
            [rng.choice(images) for images in (people[i] for i in chosen)]
            for chosen in (rng.choice(len(people), 2, replace=False) for _ in range(pairs))
        ]
    )
    probes: dict[Goal, Floats] = {
        "dodging": _pixels(faces, genuine[:, 0]),
        "impersonation": _pixels(faces, impostor[:, 0]),
    }
    galleries: dict[Goal, Floats] = {
        "dodging": recognizer.embed_numpy(_pixels(faces, genuine[:, 1])),
        "impersonation": recognizer.embed_numpy(_pixels(faces, impostor[:, 1])),
    }
    scores = cosine(recognizer.embed_numpy(probes["impersonation"]), galleries["impersonation"])
    results: dict[tuple[str, str], tuple[Floats, Floats]] = {}
    for attack in tqdm(attacks, desc=f"attacking {recognizer.name}", unit="attack"):
        for goal in GOALS:
            victims = galleries[goal][:attacked]
            results[attack.name, goal] = (
                _attack(recognizer, attack, probes[goal][:attacked], victims, goal, eps, seed),
                victims,
            )
    return Trial(
        recognizer,
        threshold_at_far(scores, far),
        eps,
        {goal: (probes[goal], galleries[goal]) for goal in GOALS},
        results,
    )


def choose(
    trials: Sequence[Trial],
    basis: Basis | None,
    purifiers: Sequence[Defence],
    folder: str | Path,
    *,
    delivered: str = "none",
    adaptive: int = 0,
    seed: int = 0,
) -> None:
    """Judges purifiers, and fixed projections where there is a basis to project onto.

    Args:
        trials: of one or more recognizers, all at one eps.
        basis: of the fixed projections; None for none.
        purifiers: of different names, as ``load_purifiers`` sees to it.
        folder: for ``choice.json`` and ``choice.png``.
        delivered: what happens to every probe, attacked or not, before a purifier gets it: a
            baseline of the benchmark such as "jpeg90", since most faces arrive as JPEG files.
        adaptive: pairs of each kind that are attacked by one who knows each candidate, too (but
            not that they are delivered so).
        seed: of these attacks.

    Raises:
        OptionError: there is no such baseline, or fewer than no pairs.
    """
    if adaptive < 0:
        raise OptionError(f"expected adaptive of 0 or more, got {adaptive}")
    arrive = get_defence(delivered).purify
    folder = make_folder(folder)
    candidates: list[Defence] = [get_defence("none")]
    if basis is not None:
        candidates += [_Fixed(basis, luma, chroma) for luma, chroma in FIXED]
    candidates += purifiers
    results = {}
    for each in tqdm(candidates, desc="judging", unit="purifier"):
        purify = after(arrive, each.purify)
        results[each.name] = {
            trial.recognizer.name: (
                trial.against(each, adaptive, seed=seed) if adaptive else trial
            ).judge(purify)
            for trial in trials
        }
    with atomic_path(folder / "choice.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1))
    with atomic_path(folder / "choice.png") as temporary:
        _draw(results, trials[0].eps, temporary)


def load_purifiers(models: Sequence[str]) -> list[Defence]:
    """What ``choose`` judges.

    Args:
        models: what ``Purifier`` takes.

    Raises:
        OptionError: two have the same name, or one that of the row without a purifier.
        ModelError: there is no such model.
    """
    purifiers: list[Defence] = [PurifierDefence(model) for model in models]
    check_names("purifiers", [get_defence("none"), *purifiers])
    return purifiers


def after(arrive: Purify, purify: Purify) -> Purify:
    """``purify`` on images as they arrive."""
    return lambda images: purify(arrive(images))


def _pixels(faces: FaceSet, indices: npt.NDArray[np.int_]) -> Floats:
    return as_batch(faces.images[indices])


def _attack(
    recognizer: Recognizer,
    attack: Attack,
    probes: Floats,
    victims: Floats,
    goal: Goal,
    eps: float,
    seed: int,
) -> Floats:
    generator = torch.Generator().manual_seed(seed)
    parts = [
        attack(
            recognizer.embed,
            torch.from_numpy(probes[start : start + 32]),
            torch.from_numpy(victims[start : start + 32]),
            goal,
            eps,
            generator=generator,
        ).numpy()
        for start in range(0, len(probes), 32)
    ]
    return np.concatenate(parts)


def on_arrays(purifier: Purifier) -> Purify:
    """What ``Trial.judge`` takes, of a purifier."""
    return lambda images: purifier.purify_canonical(images).images


def on_tensors(purify: Callable[[torch.Tensor], torch.Tensor]) -> Purify:
    """The same, of a network."""

    @torch.no_grad()
    def run(images: Floats) -> Floats:
        parts = [purify(part) for part in torch.from_numpy(images).split(CHUNK)]
        result: Floats = torch.cat(parts).contiguous().numpy()
        return result

    return run


class _Fixed(Defence):
    """A projection onto the first eigenfaces."""

    def __init__(self, basis: Basis, luma: int, chroma: int) -> None:
        self.name = f"fixed {luma} + {chroma}"
        self._space = ImmuneSpace(basis.first(luma, chroma))

    @override
    def key(self) -> str:
        return f"{self.name} {weights_of(self._space)}"

    @override
    def purify(self, images: Floats, seed: int = 0) -> Floats:
        return on_tensors(self.differentiable)(images)

    @override
    def differentiable(self, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
        return self._space.decode(self._space.encode(x))


def _draw(results: dict[str, dict[str, dict[str, float]]], eps: float, path: Path) -> None:
    from matplotlib.figure import Figure

    from facepurify.bench.plots import name_above

    names = list(next(iter(results.values())))
    figure = Figure(figsize=(6 * len(names), 6), layout="constrained")
    for axis, recognizer in zip(
        figure.subplots(1, len(names), squeeze=False)[0], names, strict=True
    ):
        for kind, marker, line in (("fixed", "o", "-"), ("", "*", "none")):
            rows = {
                name: row[recognizer]
                for name, row in results.items()
                if name.startswith("fixed") == bool(kind) and name != "none"
            }
            if not rows:
                continue
            cost = [100 * row["genuine rejected"] for row in rows.values()]
            for (attacks, goal), colour in zip(
                _drawn(rows), ("C0", "C3", "C9", "C1"), strict=False
            ):
                worst = [
                    100 * max(row[f"{attack} {goal}"] for attack in attacks)
                    for row in rows.values()
                ]
                label = f"{', '.join(attacks)}: {goal}, {kind or 'purifiers'}"
                axis.plot(cost, worst, marker=marker, linestyle=line, color=colour, label=label)
        axis.set_title(f"{recognizer}: worst at {eps:g}/255")
        rejected = {
            name.removeprefix("fixed "): 100 * row[recognizer]["genuine rejected"]
            for name, row in results.items()
            if name != "none"
        }
        name_above(axis, rejected)
        axis.set_xlabel("genuine rejected, %")
        axis.set_ylabel("attack success, %")
        axis.set_ylim(-2, 102)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.savefig(path, format="png", dpi=120)


def _drawn(rows: dict[str, dict[str, float]]) -> list[tuple[list[str], Goal]]:
    """Of which attacks the worst is drawn: of those not made through it, of the one that is."""
    known = AdaptiveAttack.name
    kinds = [[attack.name for attack in ATTACKS]]
    if any(key.startswith(known) for row in rows.values() for key in row):
        kinds.append([known])
    return [(attacks, goal) for attacks in kinds for goal in GOALS]
