"""Does the suspicion score find an attacker who hides from it?

``python -m facepurify.bench hiding``: the adaptive attack through each purifier as it is, and once
more with a price on being found, at several prices; the attacker takes for each image what fools
the recognizer without raising the alarm, if he has it. (As Carlini & Wagner attack detectors,
arXiv 1705.07263: through both at once.)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facepurify.bench import metrics
from facepurify.bench.adaptive import AdaptiveAttack
from facepurify.bench.attacks import GOALS, Goal
from facepurify.bench.attacks.base import check_levels
from facepurify.bench.cache import Cache
from facepurify.bench.defences import Defence, get_defence
from facepurify.bench.judge import FAR
from facepurify.bench.metrics import Rate
from facepurify.bench.options import (
    FULL,
    add_data_options,
    open_recognizers,
    read_options,
    read_pairs,
)
from facepurify.bench.pairs import Pairs, attacked_pairs
from facepurify.bench.progress import Progress
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.records import read_record, write_record
from facepurify.bench.report import write_text
from facepurify.bench.results import Record
from facepurify.bench.run import check_names, provenance
from facepurify.bench.shipped import RECOGNIZER
from facepurify.bench.steps import Faces, Steps, Target
from facepurify.bench.summary import aligned_table, interval
from facepurify.errors import OptionError
from facepurify.weights import read_manifest

__all__ = [
    "PRICES",
    "Hiding",
    "HidingRow",
    "main",
    "measure_hiding",
    "read_hiding",
    "render_hiding",
]

SCHEMA = 1
ATTACK = AdaptiveAttack()
PRICES = (0.02, 0.1, 0.5)
"""Of a unit of the alarm, in cosines: all are tried, and for each image the best one counts."""
CLEAN, OPEN, HIDDEN = "no attack", "adaptive", "adaptive, hiding"

_Images = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Indices = NDArray[np.int64]
_Seen = tuple[NDArray[np.floating], NDArray[np.floating]]


@dataclass(frozen=True)
class HidingRow:
    """One attacker and goal at one purifier.

    ``fooled`` counts pairs that the recognizer gets wrong, ``unnoticed`` those of them whose probe
    raised no alarm, ``found`` all probes that raised it.
    """

    defence: str
    attacker: str
    goal: str
    eps: float
    fooled: Rate
    unnoticed: Rate
    found: Rate


@dataclass(frozen=True)
class Hiding(Record):
    """Everything that one run measured."""

    recognizer: str
    threshold: float
    rows: tuple[HidingRow, ...]


def measure_hiding(
    pairs: Pairs,
    recognizer: Recognizer,
    defences: Sequence[Defence],
    out: Path,
    *,
    limit: int,
    eps: Sequence[float],
    seed: int,
) -> Hiding:
    """Attack through every purifier, openly and hiding from its score.

    Args:
        pairs: The threshold, at FAR 1 % without a purifier, comes from all of them.
        recognizer: What the purifiers protect.
        defences: Purifiers whose score has a threshold, of different names.
        out: Folder whose ``cache`` keeps finished work; made when missing.
        limit: Attacked pairs of each kind.
        eps: L-inf budgets: whole grey levels, 1 to 255.
        seed: Chooses the pairs, and all randomness.

    Raises:
        OptionError: If a number or the names make no sense, or a purifier has no such score.
        SeedError: If the seed does not.
        OutputError: If finished work cannot be kept.
    """
    check_names("purifiers", defences)
    for defence in defences:
        if defence.score_threshold is None:
            raise OptionError(
                f"expected purifiers whose score has a threshold, got {defence.name} without"
            )
    for budget in eps:
        check_levels(budget)
    chosen = attacked_pairs(pairs, limit, seed)
    faces = sum(map(len, chosen.values()))
    passes = sum(ATTACK.cost(defence) for defence in defences) * faces * (1 + len(PRICES))
    with Progress() as progress:
        steps = Steps(Cache(out / "cache"), progress, seed)
        # Beside the attacks: all faces once, the probes unattacked, and each attacked version.
        seen = len(defences) * faces * (1 + len(eps) * (1 + len(PRICES)))
        progress.expect(len(pairs.images) + seen + len(eps) * passes)
        steps.phase(recognizer.name)
        plain = steps.see(pairs.images, recognizer, get_defence("none")).embeddings
        impostor = metrics.pair_cosine(plain, pairs.impostor)
        judge = _Judge(
            recognizer, steps, pairs.images, plain, metrics.threshold_at_far(impostor, FAR)
        )
        rows = [row for defence in defences for row in judge.rows(defence, chosen, eps)]
    return Hiding(
        schema=SCHEMA,
        **provenance(pairs),
        recognizer=recognizer.name,
        threshold=judge.threshold,
        settings={
            "attack": ATTACK.key(),
            "prices": ", ".join(f"{price:g}" for price in PRICES),
            "limit": str(limit),
            "seed": str(seed),
        },
        rows=tuple(rows),
    )


@dataclass(frozen=True)
class _Judge:
    """A recognizer, all faces as it sees them, and its threshold."""

    recognizer: Recognizer
    steps: Steps
    images: _Images
    plain: _Floats
    threshold: float

    def rows(
        self, defence: Defence, chosen: Mapping[Goal, _Indices], eps: Sequence[float]
    ) -> Iterator[HidingRow]:
        """Yield what each attacker does at one purifier; the one without an attack has eps 0."""
        for goal in GOALS:
            faces = Faces(self.images[chosen[goal][:, 0]], self.plain[chosen[goal][:, 1]])
            target = Target(self.recognizer, defence, faces, goal)
            yield self._row(CLEAN, target, 0.0, [self._seen(target, faces.probes)])
            for budget in eps:
                openly, *hidden = (
                    self._attacked(target, replace(ATTACK, hiding=price), budget)
                    for price in (0.0, *PRICES)
                )
                yield self._row(OPEN, target, budget, [openly])
                yield self._row(HIDDEN, target, budget, [openly, *hidden])

    def _attacked(self, target: Target, attack: AdaptiveAttack, eps: float) -> _Seen:
        price = f", a price of {attack.hiding:g}" if attack.hiding else ""
        self.steps.phase(f"{target.defence.name}, {target.goal} at {eps:g}{price}")
        return self._seen(target, self.steps.adaptive(attack, target, eps))

    def _seen(self, target: Target, images: _Images) -> _Seen:
        """Return the cosines [N] to the gallery, and the suspicion [N]."""
        seen = self.steps.see(images, self.recognizer, target.defence)
        if seen.suspicion is None:
            raise OptionError(f"expected a score, got {target.defence.name} without")
        return metrics.cosine(seen.embeddings, target.faces.anchors), seen.suspicion

    def _row(self, attacker: str, target: Target, eps: float, tries: Sequence[_Seen]) -> HidingRow:
        """Count, of several tries at each image, the one that serves the attacker best."""
        cosines, suspicions = zip(*tries, strict=True)
        fooled = np.stack([metrics.fooled(each, self.threshold, target.goal) for each in cosines])
        found = np.stack(suspicions) >= target.defence.score_threshold
        # What fools unnoticed, then what fools, then what is not found.
        best = (4 * (fooled & ~found) + 2 * fooled + ~found).argmax(0), np.arange(fooled.shape[1])
        fooled, found = fooled[best], found[best]
        return HidingRow(
            target.defence.name, attacker, target.goal, eps,
            *map(Rate.count, (fooled, fooled & ~found, found)),
        )  # fmt: skip


def read_hiding(path: Path) -> Hiding:
    """Read what a run wrote as ``hiding.json``, checking every field.

    Raises:
        DataError: If the file is missing, is no JSON, or is of another schema.
    """
    return read_record(Hiding, SCHEMA, path)


def render_hiding(record: Hiding) -> str:
    """Return the Markdown table, a line for each purifier, budget and attacker."""
    rows = [
        [
            row.defence,
            f"{row.eps:g}" if row.eps else "-",
            row.attacker,
            row.goal,
            *map(interval, (row.fooled, row.unnoticed, row.found)),
        ]
        for row in record.rows
    ]
    header = ["purifier", "eps", "attacker", "goal", "succeeds", "unnoticed", "alarms"]
    pairs = record.rows[0].fooled.total
    return aligned_table(header, rows) + (
        f"\n{record.data.name}, {record.recognizer}, {pairs} pairs of each kind. Per cent, with "
        "Wilson 95 % intervals: pairs that the\nrecognizer gets wrong at its threshold of FAR 1 %, "
        "set without a purifier; those of them whose probe\nraised no alarm; all probes that "
        "raised it. Hiding: the attack pays for being found.\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Measure and write ``hiding.json`` and ``.md``; return the exit status.

    Raises:
        FacePurifyError: If an option, the data or a model is not usable.
    """
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.bench hiding",
        description=(
            "Whether the suspicion score finds attackers who go through the purifier: one who "
            "does not care, and one who hides from it."
        ),
    )
    add_data_options(parser, "facepurify-bench")
    parser.add_argument(
        "--eps",
        type=float,
        action="append",
        help="L-inf budget: whole grey levels, 1 to 255, repeatable (8)",
    )
    parser.add_argument(
        "--recognizer",
        default=RECOGNIZER,
        metavar="NAME|FILE",
        help="to fool: a shipped one or ArcFace-style .onnx (%(default)s)",
    )
    parser.add_argument(
        "--purifier",
        action="append",
        metavar="NAME|FILE",
        help="with a score; repeatable; the default is the shipped default",
    )
    options = read_options(parser, arguments)
    (recognizer,) = open_recognizers([options.recognizer], options)
    names = dict.fromkeys(options.purifier or [read_manifest().default])
    record = measure_hiding(
        read_pairs(options),
        recognizer,
        [get_defence(name) for name in names],
        options.out,
        limit=FULL["adaptive_limit"] if options.limit is None else options.limit,
        eps=tuple(dict.fromkeys(options.eps or [8.0])),
        seed=options.seed,
    )
    table = render_hiding(record)
    write_record(record, options.out / "hiding.json")
    write_text(table, options.out / "hiding.md")
    sys.stdout.write(f"{table}\nwrote hiding.json and hiding.md into {options.out}\n")
    return 0
