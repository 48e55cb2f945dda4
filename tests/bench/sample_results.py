"""A made-up run, for tests of what is written about a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from facepurify.bench.hits import HitRecognizer, HitRow, Hits
from facepurify.bench.metrics import Rate
from facepurify.bench.results import (
    ADAPTIVE,
    OBLIVIOUS,
    QUERY,
    ROC_RATES,
    SCHEMA,
    STORED,
    TRANSFER,
    AttackRow,
    CheckResult,
    CleanRow,
    DataInfo,
    DefenceInfo,
    LatencyRow,
    Outcome,
    RecognizerInfo,
    Results,
)

__all__ = ["DEFENCES", "JPEG75_AT_8", "sample_combinations", "sample_hits", "sample_results"]

Row = TypeVar("Row", AttackRow, CleanRow, LatencyRow)

DEFENCES = ("none", "jpeg75", "<pin>")
# Dodging and impersonation of oblivious, stored and adaptive attacks, in per cent:
# 8 * (10 - 3) and 8 * (8 - 3) of 100 hits, and more of them as below.
JPEG75_AT_8 = ["56.0", "40.0", "61.0", "46.0", "66.0", "52.0"]
MORE = {STORED: (5, 6), ADAPTIVE: (10, 12)}  # hits of 100, dodging and impersonation


def sample_results(*, smoke: bool = False, failed_check: bool = False) -> Results:
    """One recognizer, three defences (one with a name that HTML must escape), two budgets."""
    curve = tuple(min(1.0, 0.6 + rate) for rate in ROC_RATES)
    check = CheckResult("more steps do no harm", not failed_check, "93.0 % then 95.0 %")
    attacked = [
        AttackRow(
            recognizer="tiny",
            defence=defence,
            attacker=attacker,
            attack=attack,
            surrogate="other" if attacker == TRANSFER else None,
            norm="linf",
            eps=eps,
            dodging=_outcome(int(eps * (10 - 3 * place)) + MORE.get(attacker, (0, 0))[0]),
            impersonation=_outcome(int(eps * (8 - 3 * place)) + MORE.get(attacker, (0, 0))[1]),
            auroc=0.91 if defence == "<pin>" else None,
            roc=curve,
            checks=(check,) if attacker == ADAPTIVE else (),
        )
        for place, defence in enumerate(DEFENCES)
        for eps in (4.0, 8.0)
        for attacker, attack in (
            (OBLIVIOUS, "fgsm"),
            (OBLIVIOUS, "pgd40"),
            (STORED, "pgd40 as jpeg90"),
            (TRANSFER, "pgd40"),
            (QUERY, "square500"),
            (ADAPTIVE, "pgd40"),
        )
    ]
    return Results(
        schema=SCHEMA,
        version="0.1.0",
        code_sha256="c" * 64,
        created="2026-01-01T00:00:00+00:00",
        machine="a machine",
        smoke=smoke,
        settings={"policy": "probe", "seed": "0", "stored as": "jpeg75"},
        data=DataInfo("faces", "d" * 64, 600, 300, 300),
        recognizers=(RecognizerInfo("tiny", "e" * 64, 8, 0.239, 0.326),),
        defences=tuple(DefenceInfo(name, "f" * 64, False, "exact") for name in DEFENCES),
        clean=tuple(
            CleanRow(
                recognizer="tiny",
                defence=name,
                accuracy=0.989,
                accuracy_deviation=0.004,
                tar_at_far_1e2=0.984,
                tar_at_far_1e3=0.95,
                frr=0.016 * (1 + place),
                far=0.01,
                recalibrated_threshold=0.24,
                recalibrated_frr=0.02,
                recalibrated_far=0.01,
                shift=0.1 * place,
                psnr=None if name == "none" else 31.5,
                ssim=1.0,
                roc=curve,
            )
            for place, name in enumerate(DEFENCES)
        ),
        attacked=tuple(attacked),
        latency=(LatencyRow("tiny", "jpeg75", 0.4, 0.3), LatencyRow("tiny", "<pin>", 0.5, 0.25)),
    )


def _outcome(hits: int) -> Outcome:
    rate = Rate.count([True] * hits + [False] * (100 - hits))
    return Outcome(fixed=rate, recalibrated=rate, shift=0.5, distance=None)


def sample_combinations(*, failed_check: bool = False) -> Results:
    """The made-up run on a plain and a hardened recognizer, with one purifier."""
    run = sample_results(failed_check=failed_check)
    names = ("tiny", "hard")

    def twice(rows: Sequence[Row]) -> tuple[Row, ...]:
        kept = [row for row in rows if row.defence != "<pin>"]
        return tuple(dataclasses.replace(row, recognizer=name) for name in names for row in kept)

    return dataclasses.replace(
        run,
        recognizers=tuple(dataclasses.replace(run.recognizers[0], name=name) for name in names),
        defences=run.defences[:2],
        clean=twice(run.clean),
        attacked=twice(run.attacked),
        latency=twice(run.latency),
    )


def sample_hits() -> Hits:
    """Two recognizers and two attacks, one of which was not run on the second."""
    run = sample_results()
    return Hits(
        schema=1,
        version=run.version,
        code_sha256=run.code_sha256,
        created=run.created,
        machine=run.machine,
        data=run.data,
        settings={"limit": "4", "seed": "0"},
        recognizers=(
            HitRecognizer("plain", "e" * 64, 0.989, 0.004, 0.326, 0.03),
            HitRecognizer("hard", "f" * 64, 0.981, 0.005, 0.41, 0.05),
        ),
        rows=(
            HitRow("plain", "fast", "FGSM()", "impersonation", 5.0, Rate.count([1, 1, 1, 0])),
            HitRow("plain", "label-free", "LabelFree()", "dodging", 10.0, Rate.count([1] * 4)),
            HitRow("hard", "fast", "FGSM()", "impersonation", 5.0, Rate.count([0] * 4)),
        ),
    )
