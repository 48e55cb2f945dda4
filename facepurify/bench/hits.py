"""Hit rates of recognizers as MTER's authors count them (Zhong & Deng, ICCV 2019, Table 4).

``python -m facepurify.bench hits``: the paper's own attacks on bare recognizers, judged at each
recognizer's threshold of FAR 1e-3. A recognizer hardened against these very attacks must not be
judged by them alone: PGD-40 stands beside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facepurify.bench import metrics
from facepurify.bench.attacks import FGSM, PGD, Attack, FeatureTarget, Goal, LabelFree
from facepurify.bench.cache import Cache
from facepurify.bench.defences import get_defence
from facepurify.bench.judge import STRICT_FAR
from facepurify.bench.metrics import Rate
from facepurify.bench.options import (
    FULL,
    add_data_options,
    open_recognizers,
    read_options,
    read_pairs,
)
from facepurify.bench.pairs import Pairs, attacked_pairs
from facepurify.bench.plots import Plot, draw_hits
from facepurify.bench.progress import Progress
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.records import read_record, write_record
from facepurify.bench.report import write_text
from facepurify.bench.results import Record
from facepurify.bench.run import check_names, provenance
from facepurify.bench.shipped import RECOGNIZER
from facepurify.bench.steps import Faces, Steps
from facepurify.bench.summary import aligned_table, interval, percent

__all__ = [
    "TRIALS",
    "HitRecognizer",
    "HitRow",
    "Hits",
    "Trial",
    "main",
    "measure_hits",
    "read_hits",
    "render_hits",
]

SCHEMA = 1
FOOT = """
Per cent, with Wilson 95 % intervals. A hit of a feature-target attack or of PGD-40 is an impostor
pair that is accepted once the probe was pushed towards the victim's embedding. Label-free pushes
the probe away from its own embedding and can only dodge: its hit is a genuine pair that is
rejected, those rejected without an attack included. All at the recognizer's own threshold of FAR
0.1 % on clean pairs, images rounded to 8 bits, eps in grey levels. Fast: one step. Iterative and
label-free: ten steps of one level. PGD-40 is stronger than the attacks that MTER trains against.
"""

_Indices = NDArray[np.int64]


class Trial(NamedTuple):
    """One attack of the table.

    Attributes:
        label: What the paper calls it.
        attack: What runs.
        goal: What a hit is.
        eps: L-inf budget in grey levels.
    """

    label: str
    attack: Attack
    goal: Goal
    eps: float


_PAPER: tuple[tuple[str, Attack, Goal], ...] = (
    ("fast feature-target", FGSM(), "impersonation"),
    ("iterative feature-target", FeatureTarget(steps=10), "impersonation"),
    ("label-free", LabelFree(steps=10), "dodging"),
)
TRIALS = (
    *(Trial(*about, eps) for about in _PAPER for eps in (5.0, 10.0)),
    *(Trial("PGD-40", PGD(steps=40), "impersonation", eps) for eps in (8.0, 10.0)),
)


@dataclass(frozen=True)
class HitRecognizer:
    """A recognizer on clean pairs: ten-fold accuracy, threshold at FAR 1e-3, FRR there."""

    name: str
    sha256: str
    accuracy: float
    accuracy_deviation: float
    threshold: float
    frr: float


@dataclass(frozen=True)
class HitRow:
    """One attack on one recognizer; ``key`` holds the attack's parameters, ``rate`` its hits."""

    recognizer: str
    attack: str
    key: str
    goal: str
    eps: float
    rate: Rate


@dataclass(frozen=True)
class Hits(Record):
    """Everything that one run measured."""

    recognizers: tuple[HitRecognizer, ...]
    rows: tuple[HitRow, ...]


def measure_hits(
    pairs: Pairs, recognizers: Sequence[Recognizer], out: Path, *, limit: int, seed: int
) -> Hits:
    """Run every trial on every recognizer.

    Args:
        pairs: Thresholds and accuracies come from all of them.
        recognizers: What is attacked, of different names.
        out: Folder whose ``cache`` keeps finished work; made when missing.
        limit: Attacked pairs of each kind.
        seed: Chooses them, and all randomness.

    Raises:
        OptionError: If the limit or the names make no sense.
        SeedError: If the seed does not.
        OutputError: If finished work cannot be kept.
    """
    check_names("recognizers", recognizers)
    chosen = attacked_pairs(pairs, limit, seed)
    judged = sum(len(chosen[trial.goal]) * (trial.attack.cost + 1) for trial in TRIALS)
    infos, rows = [], []
    with Progress() as progress:
        steps = Steps(Cache(out / "cache"), progress, seed)
        progress.expect(len(recognizers) * (len(pairs.images) + judged))
        for recognizer in recognizers:
            info, mine = _measure(pairs, recognizer, steps, chosen)
            infos.append(info)
            rows += mine
    return Hits(
        schema=SCHEMA,
        **provenance(pairs),
        settings={"limit": str(limit), "seed": str(seed)},
        recognizers=tuple(infos),
        rows=tuple(rows),
    )


def _measure(
    pairs: Pairs, recognizer: Recognizer, steps: Steps, chosen: Mapping[Goal, _Indices]
) -> tuple[HitRecognizer, list[HitRow]]:
    bare = get_defence("none")
    steps.phase(recognizer.name)
    clean = steps.see(pairs.images, recognizer, bare).embeddings
    genuine, impostor = (
        metrics.pair_cosine(clean, kind) for kind in (pairs.genuine, pairs.impostor)
    )
    threshold = metrics.threshold_at_far(impostor, STRICT_FAR)
    accuracy, deviation = metrics.ten_fold_accuracy(
        genuine, impostor, pairs.genuine_folds, pairs.impostor_folds
    )
    frr = metrics.frr(genuine, threshold)
    info = HitRecognizer(recognizer.name, recognizer.sha256, accuracy, deviation, threshold, frr)
    rows = []
    for label, attack, goal, eps in TRIALS:
        steps.phase(f"{recognizer.name}, {label} {eps:g}")
        probes, gallery = chosen[goal].T
        faces = Faces(pairs.images[probes], clean[gallery])
        images = steps.attack(attack, recognizer, faces, goal, eps)
        scores = metrics.cosine(steps.see(images, recognizer, bare).embeddings, faces.anchors)
        rate = metrics.attack_success(scores, threshold, goal)
        rows.append(HitRow(recognizer.name, label, attack.key(), goal, eps, rate))
    return info, rows


def read_hits(path: Path) -> Hits:
    """Read what a run wrote as ``hits.json``, checking every field.

    Raises:
        DataError: If the file is missing, is no JSON, or is of another schema.
    """
    return read_record(Hits, SCHEMA, path)


def render_hits(hits: Hits) -> str:
    """Return the Markdown table, one column for each recognizer, readable in a terminal too."""
    data = hits.data
    rates = {(row.recognizer, row.attack, row.goal, row.eps): row.rate for row in hits.rows}
    rows = [
        [
            "accuracy, 10-fold",
            "-",
            str(data.genuine + data.impostor),
            *(
                f"{percent(one.accuracy)} ± {percent(one.accuracy_deviation)}"
                for one in hits.recognizers
            ),
        ],
        [
            "threshold at FAR 0.1 %",
            "-",
            str(data.impostor),
            *(f"{one.threshold:.3f}" for one in hits.recognizers),
        ],
        [
            "rejected without an attack",
            "-",
            str(data.genuine),
            *(percent(one.frr) for one in hits.recognizers),
        ],
    ]
    for attack, goal, eps in dict.fromkeys(key[1:] for key in rates):
        found = [rates.get((one.name, attack, goal, eps)) for one in hits.recognizers]
        total = max(rate.total for rate in found if rate)
        label = attack if goal == "impersonation" else f"{attack} ({goal})"
        rows.append([label, f"{eps:g}", str(total), *map(interval, found)])
    header = [f"{data.name}: hits", "eps", "pairs", *(one.name for one in hits.recognizers)]
    return aligned_table(header, rows) + FOOT


def _draw(hits: Hits) -> Plot:
    """Draw what each recognizer's hardness costs: the largest budget of each attack."""
    strongest = {row.attack: row.eps for row in sorted(hits.rows, key=lambda row: row.eps)}
    rates = {
        f"{attack}, {eps:g}": {
            row.recognizer: row.rate for row in hits.rows if (row.attack, row.eps) == (attack, eps)
        }
        for attack, eps in strongest.items()
    }
    return draw_hits({one.name: one.accuracy for one in hits.recognizers}, rates)


def main(arguments: Sequence[str]) -> int:
    """Measure hit rates and write ``hits.json``, ``.md`` and ``.svg``; return the exit status.

    Raises:
        FacePurifyError: If an option, the data or a recognizer is not usable.
    """
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.bench hits",
        description=(
            "Hit rates in per cent of the attacks in MTER's Table 4, and of PGD-40, on bare "
            "recognizers, at each one's threshold of FAR 1e-3."
        ),
    )
    add_data_options(parser, "facepurify-bench")
    parser.add_argument(
        "--recognizer",
        action="append",
        metavar="NAME|FILE",
        help="to attack: shipped one or ArcFace-style .onnx; repeat it for more columns",
    )
    options = read_options(parser, arguments)
    recognizers = open_recognizers(options.recognizer or [RECOGNIZER], options)
    limit = FULL["limit"] if options.limit is None else options.limit
    hits = measure_hits(
        read_pairs(options), recognizers, options.out, limit=limit, seed=options.seed
    )
    table = render_hits(hits)
    write_record(hits, options.out / "hits.json")
    write_text(table, options.out / "hits.md")
    write_text(_draw(hits).svg, options.out / "hits.svg")
    sys.stdout.write(f"{table}\nwrote hits.json, hits.md and hits.svg into {options.out}\n")
    return 0
