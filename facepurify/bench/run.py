"""One run: measure everything, and say on what, with what and where."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TypedDict

import numpy as np
import onnxruntime
import torch

import facepurify
from facepurify.bench.cache import Cache, source_digest
from facepurify.bench.defences import Defence
from facepurify.bench.evaluate import Evaluation, Protocol
from facepurify.bench.latency import relative_latency
from facepurify.bench.pairs import Pairs
from facepurify.bench.progress import Progress
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.results import SCHEMA, DataInfo, DefenceInfo, LatencyRow, Results
from facepurify.bench.sheet import draw_sheet
from facepurify.bench.steps import Steps, to_float
from facepurify.errors import OptionError

__all__ = ["Provenance", "check_names", "measure", "provenance"]

SHEET_FACES = 6


def measure(
    pairs: Pairs,
    recognizers: Sequence[Recognizer],
    defences: Sequence[Defence],
    protocol: Protocol,
    out: Path,
    *,
    smoke: bool = False,
    with_sheet: bool = False,
) -> tuple[Results, bytes | None]:
    """Measure defences in front of recognizers.

    Args:
        pairs: The data.
        recognizers: What is attacked; each is also a surrogate for the others.
        defences: The first changes nothing: the threshold is set without a defence.
        protocol: What is attacked, and how.
        out: Folder of finished work; made when missing.
        smoke: Whether the data is too little to measure anything.
        with_sheet: Whether to draw example faces.

    Returns:
        The results, and the sheet as a PNG if one was asked for.

    Raises:
        OptionError: If two recognizers or two defences have the same name.
        OutputError: If finished work cannot be kept.
        AttackError: If an attack cannot run.
    """
    check_names("recognizers", recognizers)
    check_names("purifiers", defences)
    with Progress() as progress:
        steps = Steps(Cache(out / "cache"), progress, protocol.seed)
        evaluation = Evaluation(pairs, protocol, steps, defences[0])
        progress.expect(evaluation.passes(recognizers, defences))
        measured = evaluation.run(recognizers, defences)
        sheet = None
        if with_sheet:
            sheet = draw_sheet(*evaluation.examples(recognizers[0], SHEET_FACES), defences)
    results = Results(
        schema=SCHEMA,
        **provenance(pairs),
        smoke=smoke,
        settings=protocol.describe(),
        recognizers=measured.recognizers,
        defences=tuple(
            DefenceInfo(defence.name, defence.key(), defence.random, defence.gradient)
            for defence in defences
        ),
        clean=measured.clean,
        attacked=measured.attacked,
        latency=tuple(_latency(pairs, recognizers, defences[1:])),
    )
    return results, sheet


def check_names(kind: str, things: Iterable[Recognizer | Defence]) -> None:
    """Refuse two recognizers or two defences of one name, which results could not tell apart.

    Args:
        kind: What they are called in the message.
        things: The recognizers, or the defences.

    Raises:
        OptionError: If two have the same name.
    """
    names = [thing.name for thing in things]
    if len(set(names)) < len(names):
        raise OptionError(f"expected {kind} of different names, got {', '.join(names)}")


class Provenance(TypedDict):
    """On what, with what and where: the fields that every record has."""

    version: str
    code_sha256: str
    created: str
    machine: str
    data: DataInfo


def provenance(pairs: Pairs) -> Provenance:
    """Return where figures measured now on ``pairs`` come from."""
    return Provenance(
        version=facepurify.__version__,
        code_sha256=source_digest("**/*.py"),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=_machine(),
        data=DataInfo(
            pairs.name, pairs.sha256, len(pairs.images), len(pairs.genuine), len(pairs.impostor)
        ),
    )


def _latency(
    pairs: Pairs, recognizers: Sequence[Recognizer], defences: Sequence[Defence]
) -> Iterator[LatencyRow]:
    batch = to_float(np.resize(pairs.images[:32], (32, *pairs.images.shape[1:])))
    for recognizer in recognizers:
        for defence in defences:
            yield LatencyRow(
                recognizer.name,
                defence.name,
                relative_latency(defence.purify, recognizer.embed_numpy, batch[:1]),
                relative_latency(defence.purify, recognizer.embed_numpy, batch),
            )


def _machine() -> str:
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads of torch; Python {platform.python_version()}, "
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    )
