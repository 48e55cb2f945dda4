"""The numbers of one run, as data that a file can hold and a stranger can check.

``results.json`` names its schema's version and the hashes of the models, the data and the code, so
that a figure can be traced to what it was measured on. Reading it validates every field.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepurify.bench.metrics import Rate
from facepurify.errors import DataError, OutputError
from facepurify.files import atomic_path

__all__ = [
    "ADAPTIVE",
    "OBLIVIOUS",
    "QUERY",
    "ROC_RATES",
    "SCHEMA",
    "TRANSFER",
    "AttackRow",
    "CheckResult",
    "CleanRow",
    "DataInfo",
    "DefenceInfo",
    "LatencyRow",
    "Outcome",
    "RecognizerInfo",
    "Results",
    "read_results",
    "write_results",
]

SCHEMA = 1
OBLIVIOUS, TRANSFER, QUERY, ADAPTIVE = "oblivious", "transfer", "query", "adaptive"
ROC_RATES = tuple(round(10 ** (exponent / 5), 6) for exponent in range(-15, 1))


@dataclass(frozen=True)
class DataInfo:
    """What was measured on: name, hash of pictures and pairs, and their numbers."""

    name: str
    sha256: str
    faces: int
    genuine: int
    impostor: int


@dataclass(frozen=True)
class RecognizerInfo:
    """A recognizer, and its thresholds at FAR 1e-2 and 1e-3 on clean pairs without a purifier."""

    name: str
    sha256: str
    dimension: int
    threshold: float
    strict_threshold: float


@dataclass(frozen=True)
class DefenceInfo:
    """A purifier or baseline.

    ``key`` names its content, ``random`` says whether it draws lots, ``gradient`` what the
    adaptive attacker differentiates.
    """

    name: str
    key: str
    random: bool
    gradient: str


@dataclass(frozen=True)
class CleanRow:
    """What a defence costs on clean pairs; FRR and FAR at the threshold fixed without it.

    ``shift`` is the mean cosine distance between a face's embedding with and without the defence,
    ``psnr`` (dB, None where no face changed) and ``ssim`` compare the purified face with the clean
    one, ``roc`` holds the TAR at each of ``ROC_RATES``.
    """

    recognizer: str
    defence: str
    accuracy: float
    accuracy_deviation: float
    tar_at_far_1e2: float
    tar_at_far_1e3: float
    frr: float
    far: float
    recalibrated_threshold: float
    recalibrated_frr: float
    recalibrated_far: float
    shift: float
    psnr: float | None
    ssim: float
    roc: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """Success of one attack towards one goal, at the fixed and at the recalibrated threshold.

    ``shift`` is the mean cosine distance of the attacked, purified probe's embedding from the clean
    probe's; ``distance`` the median smallest change that succeeds, in grey levels, where the attack
    measures it.
    """

    fixed: Rate
    recalibrated: Rate
    shift: float
    distance: float | None


@dataclass(frozen=True)
class CheckResult:
    """One self-check of an adaptive attack."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class AttackRow:
    """One attack against one defence.

    ``attacker`` is one of oblivious, transfer, query and adaptive; ``surrogate`` the recognizer
    that a transfer attack was made on; ``norm`` is linf or l2, ``eps`` the budget in it, in grey
    levels; ``auroc`` says how well the
    suspicion score tells attacked from clean probes, None without a score; ``roc`` holds the TAR
    at each of ``ROC_RATES`` with all attacked pairs. A goal that the attack does
    not have is None.
    """

    recognizer: str
    defence: str
    attacker: str
    attack: str
    surrogate: str | None
    norm: str
    eps: float
    dodging: Outcome | None
    impersonation: Outcome | None
    auroc: float | None
    roc: tuple[float, ...]
    checks: tuple[CheckResult, ...]


@dataclass(frozen=True)
class LatencyRow:
    """Time of a defence as a multiple of the recognizer's, for each image, medians of one run."""

    recognizer: str
    defence: str
    batch_1: float
    batch_32: float


@dataclass(frozen=True)
class Results:
    """Everything that one run measured."""

    schema: int
    version: str
    code_sha256: str
    created: str
    machine: str
    smoke: bool
    settings: dict[str, str]
    data: DataInfo
    recognizers: tuple[RecognizerInfo, ...]
    defences: tuple[DefenceInfo, ...]
    clean: tuple[CleanRow, ...]
    attacked: tuple[AttackRow, ...]
    latency: tuple[LatencyRow, ...]


def write_results(results: Results, path: Path) -> None:
    """Write ``results`` as JSON.

    Raises:
        OutputError: If the file cannot be written.
    """
    text = json.dumps(dataclasses.asdict(results), indent=1, allow_nan=False) + "\n"
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(f"expected to write {path}: {error}") from error


def read_results(path: Path) -> Results:
    """Read what :func:`write_results` wrote, checking every field.

    Raises:
        DataError: If the file is missing, is no JSON, or is of another schema.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected results as JSON, cannot read {path}: {error}") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise DataError(f"expected results of schema {SCHEMA}, got {schema!r} in {path}")
    results: Results = _decode(Results, content, path.name)
    return results


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Return ``value``, from JSON, as the annotated type ``kind``, or say where it is not."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        if set(value) != set(hints):
            wrong = ", ".join(sorted(set(value) ^ set(hints)))
            raise DataError(f"expected other fields in {where}: {wrong} missing or not known")
        fields = {name: _decode(hints[name], value[name], f"{where}.{name}") for name in hints}
        return kind(**fields)  # type: ignore[operator]
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _decode(arguments[1], v, f"{where}.{key}") for key, v in value.items()}
    if origin is types.UnionType:
        return None if value is None else _decode(arguments[0], value, where)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise DataError(f"expected {getattr(kind, '__name__', kind)} in {where}, got {value!r:.60}")
