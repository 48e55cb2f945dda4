"""How close purified faces come to the clean ones, as UDDN's Table 1 has it.

``python -m facepurify.bench closeness``: the mean L1 distance between what a recognizer makes of
the purified attacked face and of the clean one (Li and Wang, Electronics 2018, Table 1), for
attacks made on each recognizer and judged by each. The table's caption speaks of images, its loss
of embeddings: both distances are recorded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facepurify.bench.attacks import FGSM, GOALS, PGD, Attack
from facepurify.bench.attacks.base import check_levels
from facepurify.bench.cache import Cache
from facepurify.bench.defences import Defence, get_defence
from facepurify.bench.options import (
    FULL,
    add_data_options,
    defences_beside_none,
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
from facepurify.bench.steps import Faces, Steps, to_float
from facepurify.bench.summary import aligned_table
from facepurify.files import atomic_path
from facepurify.weights import read_manifest

__all__ = [
    "ATTACKS",
    "Closeness",
    "ClosenessRow",
    "embedding_distance",
    "main",
    "measure_closeness",
    "read_closeness",
    "render_closeness",
]

SCHEMA = 1
CLEAN = "clean"
CHUNK = 64
ATTACKS: dict[str, Attack] = {
    "FGSM": FGSM(),
    **{f"I-FGSM {steps}": PGD(steps=steps, random_start=False) for steps in (2, 4, 8)},
}
_Images = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ClosenessRow:
    """Mean distances of purified faces from the clean ones.

    ``judge`` embeds; ``maker`` is the recognizer that the attack was made on, the judge itself for
    clean faces; ``embedding`` is L1 of unit embeddings over sqrt(d), ``pixels`` the mean absolute
    difference in grey levels; ``faces`` says over how many.
    """

    judge: str
    maker: str
    defence: str
    attack: str
    embedding: float
    pixels: float
    faces: int


@dataclass(frozen=True)
class Closeness(Record):
    """Everything that one run measured."""

    rows: tuple[ClosenessRow, ...]


def embedding_distance(one: _Floats, other: _Floats) -> float:
    """Return the mean over N faces of the L1 distance of unit embeddings [N, d] over sqrt(d).

    >>> import numpy as np
    >>> one, other = np.array([[1, 0, 0, 0]]), np.array([[0, 1, 0, 0]])
    >>> embedding_distance(one.astype(np.float32), other.astype(np.float32))
    1.0
    """
    shift = np.abs(one.astype(np.float64) - other).sum(axis=1)
    return float(shift.mean() / np.sqrt(one.shape[1]))


def measure_closeness(
    pairs: Pairs,
    recognizers: Sequence[Recognizer],
    defences: Sequence[Defence],
    out: Path,
    *,
    limit: int,
    eps: float,
    seed: int,
) -> Closeness:
    """Attack on every recognizer, purify by every defence, judge by every recognizer.

    Args:
        pairs: Whose probes are attacked: those of genuine pairs to dodge, of impostors to
            impersonate.
        recognizers: Of different names; the first is usually a guide, the others unseen.
        defences: What purifies.
        out: Folder whose ``cache`` keeps finished work; made when missing.
        limit: Attacked pairs of each kind.
        eps: L-inf budget: whole grey levels, 1 to 255.
        seed: Chooses the pairs, and all randomness.

    Raises:
        OptionError: If a number or the names make no sense.
        SeedError: If the seed does not.
        OutputError: If finished work cannot be kept.
    """
    check_names("recognizers", recognizers)
    check_names("purifiers", defences)
    check_levels(eps)
    chosen = attacked_pairs(pairs, limit, seed)
    probes = np.concatenate([chosen[goal][:, 0] for goal in GOALS])
    clean_images = pairs.images[probes]
    cost = sum(attack.cost for attack in ATTACKS.values())
    sets = 1 + len(recognizers) * len(ATTACKS)
    rows = []
    with Progress() as progress:
        steps = Steps(Cache(out / "cache"), progress, seed)
        seen = len(recognizers) * (len(pairs.images) + sets * len(defences) * len(probes))
        progress.expect(seen + len(recognizers) * len(probes) * cost)
        steps.phase("clean faces")
        clean = {
            one.name: steps.see(pairs.images, one, get_defence("none")).embeddings
            for one in recognizers
        }
        attacked = {(one.name, CLEAN): clean_images for one in recognizers}
        for maker in recognizers:
            for label, attack in ATTACKS.items():
                steps.phase(f"{label} on {maker.name}")
                attacked[maker.name, label] = np.concatenate(
                    [
                        steps.attack(
                            attack,
                            maker,
                            Faces(pairs.images[pair[:, 0]], clean[maker.name][pair[:, 1]]),
                            goal,
                            eps,
                        )
                        for goal, pair in chosen.items()
                    ]
                )
        for (maker_name, label), images in attacked.items():
            for defence in defences:
                steps.phase(f"{defence.name}, {label} on {maker_name}")
                pixels = _pixels(defence, images, clean_images)
                for judge in recognizers:
                    if label == CLEAN and judge.name != maker_name:
                        continue
                    embeddings = steps.see(images, judge, defence).embeddings
                    distance = embedding_distance(embeddings, clean[judge.name][probes])
                    about = (judge.name, maker_name, defence.name, label)
                    rows.append(ClosenessRow(*about, distance, pixels, len(probes)))
    return Closeness(
        schema=SCHEMA,
        **provenance(pairs),
        settings={"limit": str(limit), "eps": f"{eps:g}", "seed": str(seed)},
        rows=tuple(rows),
    )


def _pixels(defence: Defence, images: _Images, clean: _Images) -> float:
    """Return the mean absolute difference in grey levels between purified and clean faces."""
    total = 0.0
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        purified = defence.purify(to_float(images[part]))
        total += float(np.abs(purified - to_float(clean[part])).sum(dtype=np.float64))
    return 255 * total / clean.size


def read_closeness(path: Path) -> Closeness:
    """Read what a run wrote as ``closeness.json``, checking every field.

    Raises:
        DataError: If the file is missing, is no JSON, or is of another schema.
    """
    return read_record(Closeness, SCHEMA, path)


def render_closeness(record: Closeness) -> str:
    """Return the Markdown table, a line for each judge, maker and purifier."""
    found = {(row.judge, row.maker, row.defence, row.attack): row for row in record.rows}
    attacks = list(dict.fromkeys(row.attack for row in record.rows if row.attack != CLEAN))
    lines = list(dict.fromkeys(key[:3] for key in found if key[3] != CLEAN))
    rows = [
        [
            judge,
            f"{maker} ({'white' if maker == judge else 'black'} box)",
            defence,
            _cell(found[judge, judge, defence, CLEAN]),
            *(_cell(found[judge, maker, defence, attack]) for attack in attacks),
        ]
        for judge, maker, defence in sorted(lines, key=lambda line: line[:2])
    ]
    header = ["judged by", "attacked on", "purifier", CLEAN, *attacks]
    return aligned_table(header, rows) + (
        f"\nMean over {record.rows[0].faces} faces of {record.data.name}, some attacked to dodge "
        "and some to impersonate: L1 distance of unit embeddings to the clean face's over "
        "sqrt(d) / mean absolute difference of the pixels in grey levels, at eps "
        f"{record.settings['eps']} of 255, steps of a quarter of it.\n"
    )


def _cell(row: ClosenessRow) -> str:
    return f"{row.embedding:.4f} / {row.pixels:.2f}"


def _draw(record: Closeness, path: Path) -> None:
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row.judge, row.maker) for row in record.rows))
    names = list(dict.fromkeys(row.defence for row in record.rows))
    figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    attacks = list(dict.fromkeys(row.attack for row in record.rows))
    for axis, (judge, maker) in zip(grid, panels, strict=True):
        for name in names:
            values = {
                row.attack: row.embedding
                for row in record.rows
                if row.judge == judge
                and row.defence == name
                and row.maker == (judge if row.attack == CLEAN else maker)
            }
            axis.plot(attacks, [values[attack] for attack in attacks], "o-", label=name)
        axis.set_title(f"{judge}, attacked on {maker}", fontsize=8)
        axis.tick_params(axis="x", labelrotation=45, labelsize=7)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    grid[0].set_ylabel("L1 of embeddings to the clean face's")
    grid[0].legend(fontsize=7)
    figure.savefig(path, format="png", dpi=120)


def main(arguments: Sequence[str]) -> int:
    """Measure and write ``closeness.json``, ``.md`` and ``.png``; return the exit status.

    Raises:
        FacePurifyError: If an option, the data or a model is not usable.
    """
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.bench closeness",
        description=(
            "UDDN's Table 1: L1 distance between purified and clean, for FGSM and I-FGSM of 2, 4 "
            "and 8 steps made on each recognizer and judged by each."
        ),
    )
    add_data_options(parser, "facepurify-bench")
    parser.add_argument(
        "--eps", type=float, default=8.0, help="L-inf budget: whole grey levels, 1 to 255 (8)"
    )
    parser.add_argument(
        "--recognizer",
        action="append",
        metavar="NAME|FILE",
        help="guide, or one never seen; repeat it for black boxes",
    )
    parser.add_argument(
        "--purifier",
        action="append",
        metavar="NAME|FILE",
        help="to compare, such as dae.onnx and uddn; repeatable; none is always there",
    )
    options = read_options(parser, arguments)
    recognizers = open_recognizers(options.recognizer or [RECOGNIZER], options)
    defences = defences_beside_none(options.purifier or [read_manifest().default])
    record = measure_closeness(
        read_pairs(options),
        recognizers,
        defences,
        options.out,
        limit=FULL["limit"] if options.limit is None else options.limit,
        eps=options.eps,
        seed=options.seed,
    )
    table = render_closeness(record)
    write_record(record, options.out / "closeness.json")
    write_text(table, options.out / "closeness.md")
    with atomic_path(options.out / "closeness.png") as temporary:
        _draw(record, temporary)
    sys.stdout.write(f"{table}\nwrote closeness.json, .md and .png into {options.out}\n")
    return 0
