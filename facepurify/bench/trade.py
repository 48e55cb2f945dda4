"""What a purifier costs against what it is worth, over recorded runs.

``python -m facepurify.bench trade`` draws clean cost against oblivious and adaptive success of
every purifier in the records, and writes the same as a table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from facepurify.bench.plots import draw_trade
from facepurify.bench.report import write_text
from facepurify.bench.results import Results, read_results
from facepurify.bench.summary import WORTH, Headline, aligned_table, headlines, worth
from facepurify.bench.table import RECORDS
from facepurify.errors import DataError, OptionError
from facepurify.files import make_folder

__all__ = ["main", "render_trade", "traded"]

HEADER = ("purifier", "eps", *WORTH)


def traded(runs: Iterable[Results], recognizer: str, purifiers: Sequence[str]) -> list[Headline]:
    """Collect what several runs found in front of one recognizer, L-inf budgets only.

    Args:
        runs: Of one data set and threshold.
        recognizer: Its name.
        purifiers: Names of those wanted; none for all.

    Returns:
        One line for each purifier and budget, as the runs have them; of those that several runs
        measured, the last run's.

    Raises:
        DataError: If there are none, or the runs cannot be compared.
    """
    chosen = list(runs)
    setups = {
        (run.data.sha256, info.sha256, info.threshold, run.settings.get("policy"))
        for run in chosen
        for info in run.recognizers
        if info.name == recognizer
    }
    if len(setups) != 1:
        raise DataError(
            f"expected runs on {recognizer} that share data, recognizer, threshold and policy, "
            f"got {len(setups)} kinds"
        )
    found = {
        (line.clean.defence, line.eps): line
        for run in chosen
        for line in headlines(run)
        if line.clean.recognizer == recognizer and line.norm == "linf"
    }
    if missing := set(purifiers) - {name for name, _ in found}:
        raise DataError(f"expected {', '.join(sorted(missing))} in the recorded runs, got none")
    return [line for (name, _), line in found.items() if not purifiers or name in purifiers]


def render_trade(lines: Sequence[Headline]) -> str:
    """Return the Markdown table of what is drawn, readable in a terminal too."""
    return aligned_table(
        HEADER,
        [
            (
                line.clean.defence,
                f"{line.eps:g}",
                *worth(line),
            )
            for line in sorted(lines, key=lambda line: (line.eps, line.clean.frr))
        ],
    )


def main(arguments: Sequence[str]) -> int:
    """Write ``trade.svg`` and ``trade.md``; return the exit status.

    Raises:
        FacePurifyError: If an option is not usable, or the records are not.
    """
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.bench trade",
        description="Clean cost against oblivious and adaptive success, over recorded runs.",
    )
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[Path("benchmarks/results")],
        metavar="DIR|FILE",
        help="recorded runs",
    )
    parser.add_argument("--recognizer", metavar="NAME", help="to stand behind (the runs' first)")
    parser.add_argument(
        "--purifier", action="append", default=[], metavar="NAME", help="repeatable (all)"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/trade"), metavar="DIR")
    options = parser.parse_args(arguments)
    files = [
        each
        for path in options.results
        for each in (sorted(path.glob("*.json")) if path.is_dir() else [path])
        if each.stem not in RECORDS
    ]
    runs = [read_results(file) for file in files]
    if not runs:
        given = ", ".join(map(str, options.results))
        raise OptionError(f"expected recorded runs, got none in {given}")
    recognizer = options.recognizer or runs[0].recognizers[0].name
    on_it = [run for run in runs if recognizer in {info.name for info in run.recognizers}]
    lines = traded(on_it, recognizer, options.purifier)
    plot = draw_trade(recognizer, lines)
    make_folder(options.out)
    write_text(plot.svg, options.out / "trade.svg")
    table = f"{render_trade(lines)}\n{plot.title}. {plot.caption}\n"
    write_text(table, options.out / "trade.md")
    sys.stdout.write(f"{table}wrote trade.svg and trade.md into {options.out}\n")
    return 0
