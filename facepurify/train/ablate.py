"""What each idea brings on a recognizer never seen: one network for each, and one judge.

Every arm is trained from scratch for as many steps and on as many faces, attacked on its own guides
only, and differs from the first arm in one thing. The judge is a recognizer that guided none, on
held-out training faces.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from facepurify.bench.attacks import FGSM, GOALS, MIM, PGD, Attack
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.summary import aligned_table, percent
from facepurify.errors import DataError, OptionError
from facepurify.files import atomic_path, make_folder
from facepurify.train.attack_pack import AttackPack, write_pack
from facepurify.train.basis import Basis
from facepurify.train.choose import Trial, on_tensors
from facepurify.train.corruption import DrawNoise
from facepurify.train.faces import FaceSet
from facepurify.train.fit_uddn import UddnRecipe, fit_uddn
from facepurify.train.immune import ImmuneNet
from facepurify.train.pin import PinNet
from facepurify.train.uddn import UddnNet

__all__ = ["ARMS", "ATTACKS", "NETS", "Arm", "ablate", "arms_named", "render_ablation"]

ATTACKS: tuple[Attack, ...] = (FGSM(), MIM(steps=10), PGD(steps=10))


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: of the arm.
        changes: fields of the recipe that differ from the run's.
        guides: how many of the run's, from the first; 0 for all.
        attacks_on_all: on all of the run's guides, though only some guide it.
        every: trained on each so-manieth of the attacked faces.
        stage: where PIN's projection stands, with a selector trained from scratch too: "" for
            nowhere, "output" or "input"; none for where the study's network has it.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    guides: int = 0
    attacks_on_all: bool = False
    every: int = 1
    stage: str | None = None

    def recipe(self, base: UddnRecipe) -> UddnRecipe:
        """How it is trained."""
        return replace(base, **self.changes)

    def same(self, base: UddnRecipe) -> bool:
        """Whether its changes change nothing, so that the base would be trained once more."""
        return (
            bool(self.changes)
            and self == Arm(self.name, self.changes)
            and (self.recipe(base) == base)
        )


NETS = {"uddn": "", "immune": "output"}  # where PIN stands
FRESH = 0.5
ARMS = (
    Arm("base"),
    Arm("one guide", guides=1),
    Arm("two guides", guides=2),
    Arm("four guides", guides=4),
    Arm("one guide, attacks on all", {"matched": False}, guides=1, attacks_on_all=True),
    Arm("each other's attacks", {"matched": False}),
    Arm("a quarter of the faces", every=4),
    Arm("a sixteenth of the faces", every=16),
    Arm("fresh attacks", {"fresh": FRESH}),
    Arm("re-drawn last layers", {"fresh": FRESH, "redraw": 0.5}),
    Arm("no band noise", {"band": 0.0}),
    Arm("square noise", {"square": 0.1}),
    Arm("a camera's noise", {"sensor": 0.1}),
    Arm("GNR noise", {"generated": 0.25}),
    Arm("leaning", {"lean": 1.0}),
    Arm("no pixel term", {"pixel": 0.0}),
    Arm("L1 of embeddings", {"distance": "l1"}),
    Arm("L1 of features", {"distance": "feature"}),
    Arm("PIN after", stage="output"),
    Arm("PIN before", stage="input"),
)


def arms_named(names: Sequence[str]) -> tuple[Arm, ...]:
    """The arms of these names, the base first in any case; all without a name.

    Raises:
        OptionError: there is no such arm.
    """
    known = {arm.name: arm for arm in ARMS}
    if unknown := [name for name in names if name not in known]:
        raise OptionError(f"expected arms of {', '.join(known)}, got {', '.join(unknown)}")
    return tuple(arm for arm in ARMS if not names or arm.name in {*names, ARMS[0].name})


class _PinFirst(ImmuneNet):
    """PIN's projection, then the denoiser: the other order, only to compare with."""

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return UddnNet.forward(self, self.pin.purify(x))


def ablate(
    arms: Sequence[Arm],
    base: UddnRecipe,
    faces: FaceSet,
    guides: Sequence[Recognizer],
    trial: Trial,
    folder: str | Path,
    *,
    count: int,
    net: str = "uddn",
    size: str = "light",
    space: Basis | None = None,
    draw_noise: DrawNoise | None = None,
    sources: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Trains and judges each arm; ``ablation.json``, ``.md`` and ``.png`` follow each.

    Run again in the same folder, it goes on: finished arms are kept, an unfinished one resumes.

    Args:
        arms: what to train.
        base: the recipe that each arm changes.
        faces: to attack and to train on.
        guides: of all arms, in order.
        trial: the judge, and its attacked held-out faces.
        folder: of the study.
        count: faces to attack for each set of guides.
        net: what an arm trains that does not say: "uddn", or "immune", with PIN behind it.
        size: of the denoiser.
        space: eigenfaces of the arms with PIN. A selector that was trained before is not taken
            over: the judge may have guided it.
        draw_noise: GNR's, as ``fit_uddn`` takes it.
        sources: checksums of what ``space`` and ``draw_noise`` were made of.
        seed: of everything random.

    Returns:
        What ``ablation.json`` holds: the settings, the judge, and for each arm what it changed,
        its seconds of training, and genuine rejected and attack success as fractions.

    Raises:
        OptionError: the judge guides an arm, an arm lacks what it needs or is the base once more,
            there is no such network, or the folder holds the attacks on another guide of the same
            name.
        DataError: the folder holds a study of other settings.
    """
    _check(arms, base, guides, trial, net, space, draw_noise)
    folder = make_folder(folder)
    settings = {
        "guides": [guide.name for guide in guides],
        "judge": trial.recognizer.name,
        "judge sha256": trial.recognizer.sha256,
        "data": faces.digest,
        "sources": dict(sources or {}),
        "threshold": trial.threshold,
        "pairs": len(trial.clean["dodging"][0]),
        "attacked": min(len(probes) for probes, _ in trial.attacked.values()),
        "eps": trial.eps,
        "faces": count,
        "net": net,
        "size": size,
        "seed": seed,
        "base": asdict(base),
    }
    study = _begin(folder / "ablation.json", settings)
    rows = study["arms"]
    if "none" not in rows:
        rows["none"] = {"changes": {}, "seconds": 0.0, "judged": trial.judge(lambda images: images)}
        _write(study, folder)
    for arm in arms:
        chosen = guides[: arm.guides or len(guides)]
        makers = guides if arm.attacks_on_all else chosen
        stage = NETS[net] if arm.stage is None else arm.stage
        changed = {
            **arm.changes, "guides": len(chosen), "attacks on": len(makers), "every": arm.every,
            "stage": stage,
        }  # fmt: skip
        if arm.name in rows:
            if rows[arm.name]["changes"] != changed:
                raise DataError(
                    f"expected the arm {arm.name!r} of {changed} in {folder}, got one of "
                    f"{rows[arm.name]['changes']}: name another folder"
                )
            continue
        torch.manual_seed(seed)  # the same first weights for every arm
        trained = _net(stage, size, space)
        pack = _pack(folder / f"attacks{len(makers)}.npz", faces, makers, count, seed)
        recipe = arm.recipe(base)
        start = time.monotonic()
        fit_uddn(
            trained, pack.every(arm.every), chosen, recipe,
            folder / "arms" / arm.name.replace(" ", "-"),
            draw_noise=draw_noise if recipe.generated else None, seed=seed, resume=True,
        )  # fmt: skip
        seconds = time.monotonic() - start
        rows[arm.name] = {
            "changes": changed, "seconds": seconds,
            "judged": trial.judge(on_tensors(trained.purify)),
        }  # fmt: skip
        _write(study, folder)
    return study


def _check(
    arms: Sequence[Arm],
    base: UddnRecipe,
    guides: Sequence[Recognizer],
    trial: Trial,
    net: str,
    space: Basis | None,
    draw_noise: DrawNoise | None,
) -> None:
    if net not in NETS:
        raise OptionError(f"expected a network of {', '.join(NETS)}, got {net!r}")
    if trial.recognizer.sha256 in {guide.sha256 for guide in guides}:
        raise OptionError(
            f"expected a judge that guides no arm, got {trial.recognizer.name}: leave it out"
        )
    for arm in arms:
        lacks = {
            f"more than {arm.guides} guides": arm.guides >= len(guides),
            "a base that it differs from": arm.same(base),
            "a PIN (--pin)": bool(arm.stage or NETS[net]) and space is None,
            "a base without PIN behind it": bool(NETS[net]) and arm.stage == NETS[net],
            "a GNR run (--gnr)": bool(arm.changes.get("generated")) and draw_noise is None,
        }
        if missing := [what for what, is_so in lacks.items() if is_so]:
            raise OptionError(
                f"expected {', '.join(missing)} for the arm {arm.name!r}, got none: "
                "give that, or name other arms with --arm"
            )


def _begin(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The study so far, if there is one of these very settings."""
    if not path.exists():
        return {"settings": settings, "arms": {}}
    try:
        study: dict[str, Any] = json.loads(path.read_text("utf-8"))
        before = study["settings"]
        is_study = isinstance(study["arms"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected a study in {path}, got {error!r}") from error
    if not is_study or before != settings:
        raise DataError(
            f"expected a study of {settings} in {path}, got one of {before}: name another folder"
        )
    return study


def _net(stage: str, size: str, space: Basis | None) -> UddnNet:
    net = UddnNet(size)
    if stage and space is not None:
        return (ImmuneNet if stage == "output" else _PinFirst)(net, PinNet(space))
    return net


def _pack(
    path: Path, faces: FaceSet, guides: Sequence[Recognizer], count: int, seed: int
) -> AttackPack:
    if not path.exists():
        write_pack(path, faces, guides, count, seed=seed)
    pack = AttackPack.load(path)
    for guide in guides:  # those that only attack, too
        pack.index(guide)
    return pack


def _write(study: dict[str, Any], folder: Path) -> None:
    with atomic_path(folder / "ablation.json") as temporary:
        temporary.write_text(json.dumps(study, indent=1) + "\n", "utf-8")
    with atomic_path(folder / "ablation.md") as temporary:
        temporary.write_text(render_ablation(study), "utf-8")
    with atomic_path(folder / "ablation.png") as temporary:
        _draw(study, temporary)


def render_ablation(study: Mapping[str, Any]) -> str:
    """The Markdown table of a study, readable in a terminal too.

    Args:
        study: what ``ablate`` returns.
    """
    settings, arms = study["settings"], study["arms"]
    attacks = _attacks(arms)
    rows = [
        [
            name,
            percent(row["judged"]["genuine rejected"]),
            *(
                " / ".join(percent(row["judged"][f"{attack} {goal}"]) for goal in GOALS)
                for attack in attacks
            ),
            f"{row['seconds'] / 60:.1f}",
        ]
        for name, row in arms.items()
    ]
    header = ["arm", "genuine rejected", *attacks, "minutes"]
    return aligned_table(header, rows) + (
        f"\nPer cent, dodging / impersonation at {settings['eps']:g}/255, on held-out training "
        f"faces ({settings['pairs']} genuine pairs, {settings['attacked']} attacked of each kind), "
        f"judged by {settings['judge']}, which guided no arm, at FAR 1 % without a purifier. Each "
        f"arm: {settings['base']['steps']} steps of {settings['base']['batch']} on "
        f"{settings['faces']} faces unless it says so, {settings['net']} from scratch. "
        f"Guides: {', '.join(settings['guides'])}. "
        "Minutes: of training, in the last session of each arm.\n"
    )


def _attacks(arms: Mapping[str, Any]) -> list[str]:
    judged = next(iter(arms.values()))["judged"]
    return list(dict.fromkeys(key.split()[0] for key in judged if key.split()[1] in GOALS))


def _draw(study: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    arms = study["arms"]
    figure = Figure(figsize=(10, 1.5 + 0.35 * len(arms)), layout="constrained")
    cost, *goals = figure.subplots(1, 1 + len(GOALS), sharey=True, width_ratios=[1, 2, 2])
    places = np.arange(len(arms))[::-1]
    cost.barh(places, [100 * row["judged"]["genuine rejected"] for row in arms.values()], 0.6)
    cost.set_title("genuine rejected, %")
    for axis, goal in zip(goals, GOALS, strict=True):
        for attack, marker in zip(_attacks(arms), "osD^v", strict=False):
            values = [100 * row["judged"][f"{attack} {goal}"] for row in arms.values()]
            axis.plot(values, places, marker, label=attack)
        axis.set_title(f"{goal} success, %")
        axis.set_xlim(-2, 102)
        axis.grid(alpha=0.3)
    goals[-1].legend(fontsize=7)
    cost.set_yticks(places, list(arms))
    figure.suptitle(f"judged by {study['settings']['judge']}, which guided none")
    figure.savefig(path, format="png", dpi=120)
