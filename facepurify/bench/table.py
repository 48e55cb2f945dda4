"""README's table of results, made from the recorded runs.

``python -m facepurify.bench table`` writes it between two marks; with ``--check`` it only says
whether README agrees with the recorded numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from facepurify.bench.results import LatencyRow, Results, read_results
from facepurify.bench.summary import both, headlines, percent
from facepurify.errors import DataError
from facepurify.files import atomic_path

__all__ = ["BEGIN", "END", "main", "render_table", "replace_table"]

HEAD = """\
| data, recognizer | purifier | eps | FRR | pairs | oblivious | black box | adaptive | time |
|---|---|---|---|---|---|---|---|---|
"""
FOOT = """
FRR: genuine pairs rejected without an attack, in per cent, at the threshold of FAR 1 % set without
a purifier. Pairs: attacked pairs of each kind, oblivious / adaptive and queries. Then success of
the worst attack in per cent, dodging / impersonation. Time: batch 1 / batch 32, in multiples of the
recognizer's.
"""
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def render_table(runs: Iterable[Results]) -> str:
    """Return the Markdown table of the recorded runs, without the marks."""
    rows = [
        f"| {run.data.name}, {line.clean.recognizer} | {line.clean.defence} "
        f"| {'L2 ' if line.norm == 'l2' else ''}{line.eps:g} | {percent(line.clean.frr)} "
        f"| {line.pairs} | {both(line.oblivious)} | {both(line.black_box)} | {both(line.adaptive)} "
        f"| {_time(line.latency)} |\n"
        for run in runs
        for line in headlines(run)
    ]
    return HEAD + "".join(rows) + FOOT


def replace_table(text: str, table: str) -> str:
    r"""Return ``text`` with what stands between the marks replaced by ``table``.

    Raises:
        DataError: If the marks are not there once each, in order.

    >>> replace_table(f"a {BEGIN} old {END} z", "new\n") == f"a {BEGIN}\nnew\n{END} z"
    True
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise DataError(f"expected the marks {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n{table}{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Write or check README's table; return the exit status, 1 where the check fails.

    Raises:
        DataError: If there are no recorded results, or README has no place for them.
    """
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.bench table", description="README's table of results."
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), metavar="FILE")
    parser.add_argument(
        "--check", action="store_true", help="change nothing, say whether it agrees"
    )
    options = parser.parse_args(arguments)
    files = sorted(options.results.glob("*.json"))
    if not files:
        raise DataError(f"expected recorded runs, there is no .json file in {options.results}")
    try:
        text = options.readme.read_text("utf-8")
    except OSError as error:
        raise DataError(f"expected a README to write to: {error}") from error
    wanted = replace_table(text, render_table(map(read_results, files)))
    if options.check:
        agrees = wanted == text
        says = "agrees with" if agrees else "differs from"
        sys.stdout.write(f"{options.readme} {says} the recorded runs\n")
        return 0 if agrees else 1
    with atomic_path(options.readme) as temporary:
        temporary.write_text(wanted, "utf-8")
    sys.stdout.write(f"wrote the table of {len(files)} recorded runs into {options.readme}\n")
    return 0


def _time(latency: LatencyRow | None) -> str:
    return "-" if latency is None else f"{latency.batch_1:.2f} / {latency.batch_32:.2f}"
