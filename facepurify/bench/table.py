"""README's tables of results, made from the recorded runs.

``python -m facepurify.bench table`` writes each between its two marks; with ``--check`` it only
says whether README agrees with the recorded numbers. The table of the runs must have its marks; the
attacks one by one, the hit rates (``hits.json``) and the combinations (``combine.json``) are
written where theirs stand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from facepurify.bench.closeness import read_closeness, render_closeness
from facepurify.bench.combine import render_combinations
from facepurify.bench.hits import read_hits, render_hits
from facepurify.bench.results import LatencyRow, Results, read_results
from facepurify.bench.summary import aligned_table, both, headlines, lines, percent
from facepurify.errors import DataError
from facepurify.files import atomic_path

__all__ = ["BEGIN", "END", "RECORDS", "main", "render_attacks", "render_table", "replace_table"]

HEAD = """\
| data, recognizer | purifier | eps | FRR | pairs | oblivious | stored | black box | adaptive \
| time |
|---|---|---|---|---|---|---|---|---|---|
"""
FOOT = """
eps: L-infinity, in grey levels of 255. FRR: genuine pairs rejected without an attack, in per cent,
at the threshold of FAR 1 % set without a purifier. Pairs: attacked pairs of each kind, oblivious /
adaptive and queries. Then success of the worst attack in per cent, dodging / impersonation; stored:
oblivious attacks that arrive through {stored}. Time: batch 1 / batch 32, in multiples of the
recognizer's.
"""
REJECTED = "genuine rejected, without an attack"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
# Tables of one record each: the name of file and marks, and what makes the table of the file.
RECORDS: dict[str, Callable[[Path], str]] = {
    "closeness": lambda path: render_closeness(read_closeness(path)),
    "hits": lambda path: render_hits(read_hits(path)),
    "combine": lambda path: render_combinations(read_results(path)),
}


def render_table(runs: Iterable[Results]) -> str:
    """Return the Markdown table of the recorded runs, without the marks."""
    runs = tuple(runs)
    rows = [
        f"| {run.data.name}, {line.clean.recognizer} | {line.clean.defence} "
        f"| {'L2 ' if line.norm == 'l2' else ''}{line.eps:g} | {percent(line.clean.frr)} "
        f"| {line.pairs} | {both(line.oblivious)} | {both(line.stored)} | {both(line.black_box)} "
        f"| {both(line.adaptive)} | {_time(line.latency)} |\n"
        for run in runs
        for line in headlines(run)
    ]
    ways = {run.settings.get("stored as", "-") for run in runs} - {"-"}
    stored = ", ".join(sorted(ways)) or "nothing else: none was measured"
    return HEAD + "".join(rows) + FOOT.format(stored=stored)


def render_attacks(runs: Iterable[Results]) -> str:
    """Return each attack by itself at the highest L-inf budget of all, a table a recognizer."""
    runs = tuple(runs)
    budgets = (row.eps for run in runs for row in run.attacked if row.norm == "linf")
    highest = max(budgets, default=0.0)
    tables = []
    for run in runs:
        names = [defence.name for defence in run.defences]
        grouped: dict[str, dict[str, dict[str, str]]] = {}
        for line in lines(run):
            row = line.row
            if (row.norm, row.eps) == ("linf", highest):
                cells = grouped.setdefault(row.recognizer, {REJECTED: {}})
                cells[REJECTED][row.defence] = percent(line.clean.frr)
                cells.setdefault(f"{row.attacker}: {line.attack}", {})[row.defence] = both(row)
        tables += [
            aligned_table(
                [f"{run.data.name}, {recognizer}, {highest:g}/255", *names],
                [
                    [label, *(each.get(name, "-") for name in names)]
                    for label, each in cells.items()
                ],
            )
            for recognizer, cells in grouped.items()
        ]
    return "\n".join(tables)


def replace_table(text: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    r"""Return ``text`` with what stands between the marks replaced by ``table``.

    Raises:
        DataError: If the marks are not there once each, in order.

    >>> replace_table(f"a {BEGIN} old {END} z", "new\n") == f"a {BEGIN}\nnew\n{END} z"
    True
    """
    before, begins, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends) or begin in rest or end in before + after:
        raise DataError(f"expected the marks {begin} and {end} once each, in this order")
    return f"{before}{begin}\n{table}{end}{after}"


def main(arguments: Sequence[str]) -> int:
    """Write or check README's tables; return the exit status, 1 where the check fails.

    Raises:
        DataError: If there are no recorded results, or README has no place for them, or a place
            for a record that there is not.
    """
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.bench table", description="README's tables of results."
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), metavar="FILE")
    parser.add_argument(
        "--check", action="store_true", help="change nothing, say whether it agrees"
    )
    options = parser.parse_args(arguments)
    files = [path for path in sorted(options.results.glob("*.json")) if path.stem not in RECORDS]
    if not files:
        raise DataError(f"expected recorded runs, there is no .json file in {options.results}")
    try:
        text = options.readme.read_text("utf-8")
    except OSError as error:
        raise DataError(f"expected a README to write to: {error}") from error
    runs = [read_results(path) for path in files]
    wanted = replace_table(text, render_table(runs))
    tables: dict[str, Callable[[], str]] = {"attacks": partial(render_attacks, runs)}
    for name, render in RECORDS.items():
        tables[name] = partial(render, options.results / f"{name}.json")
    for name, written in tables.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin in wanted or end in wanted:
            wanted = replace_table(wanted, written(), begin, end)
    if options.check:
        agrees = wanted == text
        says = "agrees with" if agrees else "differs from"
        sys.stdout.write(f"{options.readme} {says} the recorded runs\n")
        return 0 if agrees else 1
    with atomic_path(options.readme) as temporary:
        temporary.write_text(wanted, "utf-8")
    sys.stdout.write(f"wrote the tables of {len(files)} recorded runs into {options.readme}\n")
    return 0


def _time(latency: LatencyRow | None) -> str:
    return "-" if latency is None else f"{latency.batch_1:.2f} / {latency.batch_32:.2f}"
