"""``python -m facepurify.bench``: how much a purifier protects, against whom, at what cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from facepurify.bench import closeness, combine, hiding, hits, table, trade
from facepurify.bench.options import (
    FULL,
    add_attack_options,
    add_data_options,
    defences_beside_none,
    make_protocol,
    open_recognizers,
    read_options,
    read_pairs,
)
from facepurify.bench.report import render_terminal, write_report
from facepurify.bench.results import write_results
from facepurify.bench.run import measure
from facepurify.bench.shipped import RECOGNIZER
from facepurify.bench.smoke import smoke_pairs
from facepurify.errors import FacePurifyError, OptionError
from facepurify.terminal import exit_with, printable
from facepurify.weights import read_manifest

__all__ = ["main"]

COMMANDS = {
    "closeness": closeness.main,
    "combine": combine.main,
    "hiding": hiding.main,
    "hits": hits.main,
    "table": table.main,
    "trade": trade.main,
}
SMOKE = {"attacks": ("fgsm", "pgd10"), "query": "square100", "limit": 8, "adaptive_limit": 4}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or one of its other commands; return the exit status.

    Args:
        arguments: Of the command line; None for the process's own.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if given[:1] and given[0] in COMMANDS:
            return COMMANDS[given[0]](given[1:])
        _run(read_options(_parser(), given))
    except FacePurifyError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
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
            "Without --data a smoke run on bundled photos. 'hits' measures recognizers as MTER's "
            "authors do, 'combine' a purifier with a hardened recognizer, 'table' writes README's "
            "tables, 'trade' draws cost against worth, 'closeness' measures UDDN's Table 1, "
            "'hiding' attackers who hide from the score; each has its own --help."
        ),
    )
    add_data_options(parser, "facepurify-bench")
    add_attack_options(parser)
    parser.add_argument(
        "--recognizer",
        action="append",
        metavar="NAME|FILE",
        help="to attack: shipped one or ArcFace-style .onnx; repeat it for transfer attacks",
    )
    parser.add_argument(
        "--purifier",
        action="append",
        metavar="NAME|FILE",
        help="shipped model, .onnx or baseline, repeatable; no purifier is always measured too",
    )
    parser.add_argument(
        "--sheet",
        action="store_true",
        help="show example faces in the report; only where the data's licence allows it",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    smoke = options.data is None
    if smoke and options.pairs is not None:
        raise OptionError("expected --data, the folder of the faces that --pairs names, got none")
    protocol = make_protocol(options, SMOKE if smoke else FULL)
    recognizers = open_recognizers(options.recognizer or [RECOGNIZER], options)
    defences = defences_beside_none(options.purifier or ["jpeg75", read_manifest().default])
    pairs = smoke_pairs() if smoke else read_pairs(options)
    results, sheet = measure(
        pairs, recognizers, defences, protocol, options.out, smoke=smoke, with_sheet=options.sheet
    )
    write_results(results, options.out / "results.json")
    write_report(results, options.out, sheet)
    sys.stdout.write(render_terminal(results))
    sys.stdout.write(f"wrote results.json, report.md and report.html into {options.out}\n")


if __name__ == "__main__":
    exit_with(main)
