"""The numbers of one run, as data that a file can hold and a stranger can check.

``results.json`` names its schema's version and the hashes of the models, the data and the code, so
that a figure can be traced to what it was measured on. Reading it validates every field.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from facepurify.bench.metrics import Rate
from facepurify.bench.records import read_record, write_record

__all__ = [
    "ADAPTIVE",
    "OBLIVIOUS",
    "QUERY",
    "ROC_RATES",
    "SCHEMA",
    "STORED",
    "TRANSFER",
    "AttackRow",
    "CheckResult",
    "CleanRow",
    "DataInfo",
    "DefenceInfo",
    "LatencyRow",
    "Outcome",
    "RecognizerInfo",
    "Record",
    "Results",
    "read_results",
    "write_results",
]

SCHEMA = 1
OBLIVIOUS, STORED, TRANSFER = "oblivious", "stored", "transfer"
QUERY, ADAPTIVE = "query", "adaptive"
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

    ``attacker`` is one of oblivious, stored, transfer, query and adaptive; ``surrogate`` the
    recognizer that a transfer attack was made on; ``norm`` is linf or l2, ``eps`` the budget in it,
    in grey levels, before it was stored; ``auroc`` says how well the suspicion score tells attacked
    from clean probes that arrive alike, None without a score; ``roc`` holds the TAR at each of
    ``ROC_RATES`` with all attacked pairs. A goal that the attack does not have is None.
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
class Record:
    """Where the figures of a run come from; every kind of run adds its own."""

    schema: int
    version: str
    code_sha256: str
    created: str
    machine: str
    data: DataInfo
    settings: dict[str, str]


@dataclass(frozen=True)
class Results(Record):
    """Everything that one run measured."""

    smoke: bool
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
    write_record(results, path)


def read_results(path: Path) -> Results:
    """Read what :func:`write_results` wrote, checking every field.

    Raises:
        DataError: If the file is missing, is no JSON, or is of another schema.
    """
    return read_record(Results, SCHEMA, path)
