"""``python -m facepurify.bench``: how much a purifier protects, against whom, at what cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from facepurify.bench import table
from facepurify.bench.attacks import get_attack
from facepurify.bench.defences import Defence, get_defence
from facepurify.bench.evaluate import Protocol
from facepurify.bench.memory import keep_freed_memory
from facepurify.bench.pairs import load_pairs
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.report import render_terminal, write_report
from facepurify.bench.results import write_results
from facepurify.bench.run import measure
from facepurify.bench.shipped import shipped_recognizer
from facepurify.bench.smoke import smoke_pairs
from facepurify.errors import FacePurifyError, OptionError
from facepurify.weights import read_manifest

__all__ = ["main"]

MINIMAL = "minimal"
FULL = {"attacks": ("fgsm", "pgd40"), "query": "square500", "limit": 500, "adaptive_limit": 50}
SMOKE = {"attacks": ("fgsm", "pgd10"), "query": "square100", "limit": 8, "adaptive_limit": 4}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or ``table``; return the exit status.

    Args:
        arguments: Of the command line; None for the process's own.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if given[:1] == ["table"]:
            return table.main(given[1:])
        options = _parser().parse_args(given)
        _run(options)
    except FacePurifyError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to go on from here\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.bench",
        description=(
            "Attack face recognizers behind purifiers: oblivious, black-box and adaptive. "
            "Without --data a smoke run on bundled photos. 'table' writes README's table."
        ),
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="aligned faces, or insightface's .bin pack"
    )
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="pairs in LFW's format; else by subfolder"
    )
    parser.add_argument(
        "--recognizer",
        type=Path,
        action="append",
        metavar="FILE",
        help="ArcFace-style .onnx to attack; repeat it for transfer attacks",
    )
    parser.add_argument(
        "--purifier",
        action="append",
        metavar="NAME|FILE",
        help="shipped model, .onnx or baseline, repeatable; no purifier is always measured too",
    )
    parser.add_argument(
        "--attack",
        action="append",
        metavar="NAME",
        help="such as fgsm, pgd40, mim10-l2; minimal for distances; repeatable",
    )
    parser.add_argument(
        "--eps", type=float, action="append", help="L-inf budget in grey levels, repeatable (8)"
    )
    parser.add_argument(
        "--eps-l2", type=float, action="append", help="L2 budget in grey levels, repeatable (512)"
    )
    parser.add_argument("--limit", type=int, help="attacked pairs of each kind (500)")
    parser.add_argument(
        "--adaptive-limit", type=int, help="of those, pairs for adaptive and query attacks (50)"
    )
    parser.add_argument(
        "--policy", choices=("probe", "both"), default="probe", help="purify the gallery too?"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses pairs, and all randomness")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("facepurify-bench"),
        metavar="DIR",
        help="results and cache",
    )
    parser.add_argument("--threads", type=int, help="of torch and ONNX Runtime")
    parser.add_argument(
        "--sheet",
        action="store_true",
        help="show example faces in the report; only where the data's licence allows it",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    keep_freed_memory()
    smoke = options.data is None
    if smoke and options.pairs is not None:
        raise OptionError("expected --data, the folder of the faces that --pairs names, got none")
    if options.threads is not None:
        if options.threads < 1:
            raise OptionError(f"expected --threads >= 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    protocol = _protocol(options, SMOKE if smoke else FULL)
    recognizers = [
        Recognizer.from_onnx(path, threads=options.threads)
        for path in options.recognizer or [shipped_recognizer()]
    ]
    defences = _defences(options.purifier or (["jpeg75", read_manifest().default]))
    pairs = smoke_pairs() if smoke else load_pairs(options.data, options.pairs, seed=options.seed)
    results, sheet = measure(
        pairs, recognizers, defences, protocol, options.out, smoke=smoke, with_sheet=options.sheet
    )
    write_results(results, options.out / "results.json")
    write_report(results, options.out, sheet)
    sys.stdout.write(render_terminal(results))
    sys.stdout.write(f"wrote results.json, report.md and report.html into {options.out}\n")


def _protocol(options: argparse.Namespace, defaults: dict[str, Any]) -> Protocol:
    asked = dict.fromkeys(options.attack or [])
    names = [name for name in asked if name != MINIMAL] or defaults["attacks"]
    return Protocol(
        attacks=tuple(get_attack(name) for name in names),
        eps=tuple(dict.fromkeys(options.eps or [8.0])),
        eps_l2=tuple(dict.fromkeys(options.eps_l2 or [512.0])),
        query=get_attack(defaults["query"]),
        limit=defaults["limit"] if options.limit is None else options.limit,
        adaptive_limit=(
            defaults["adaptive_limit"] if options.adaptive_limit is None else options.adaptive_limit
        ),
        policy=options.policy,
        seed=options.seed,
        distances=MINIMAL in asked,
    )


def _defences(names: Sequence[str]) -> list[Defence]:
    """Make the named defences, no defence first: every other is compared with it."""
    return [get_defence(name) for name in dict.fromkeys(["none", *names])]


if __name__ == "__main__":
    sys.exit(main())
