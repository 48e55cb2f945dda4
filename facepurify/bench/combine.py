"""A purifier, a hardened recognizer, neither or both: what each costs and what each is worth.

``python -m facepurify.bench combine`` is one run of the benchmark on two recognizers, summed up in
four rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

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
from facepurify.bench.report import render_markdown, write_text
from facepurify.bench.results import Results, write_results
from facepurify.bench.run import measure
from facepurify.bench.shipped import HARDENED, RECOGNIZER
from facepurify.bench.summary import WORTH, aligned_table, headlines, warnings, worth
from facepurify.errors import DataError, OptionError
from facepurify.weights import read_manifest

__all__ = ["main", "render_combinations"]

HEADER = ("protection", "eps", *WORTH)
FOOT = """
Per cent. Genuine pairs rejected without an attack, and success of the worst attack with Wilson
95 % intervals, at each recognizer's own threshold of FAR 1 %, set without a purifier. Oblivious:
the attacker knows the recognizer, not the purifier; adaptive: goes through both. Pairs: attacked
pairs of each kind, oblivious / adaptive.
"""


def render_combinations(results: Results) -> str:
    """Return the Markdown table of the four combinations, readable in a terminal too.

    Args:
        results: Of a run on two recognizers, the plain one first, and two defences, none first.

    Raises:
        DataError: If the run was another one.
    """
    recognizers = [recognizer.name for recognizer in results.recognizers]
    defences = [defence.name for defence in results.defences]
    if len(recognizers) != 2 or len(defences) != 2 or defences[0] != "none":
        raise DataError(
            "expected a run on two recognizers and on no defence and a purifier, "
            f"got {', '.join(recognizers)} and {', '.join(defences)}"
        )
    (plain, hardened), (none, purifier) = recognizers, defences
    labels = {
        (plain, none): "neither",
        (plain, purifier): f"purifier {purifier}",
        (hardened, none): f"hardened {hardened}",
        (hardened, purifier): "both",
    }
    rows = [
        (
            labels[line.clean.recognizer, line.clean.defence],
            f"{'L2 ' if line.norm == 'l2' else ''}{line.eps:g}",
            *worth(line),
        )
        for line in headlines(results)
    ]
    doubts = "".join(
        f"\nWARNING: self-check failed, do not trust the adaptive figure: {warning}\n"
        for warning in warnings(results)
    )
    about = f"Measured on {results.data.name}; the plain recognizer is {plain}.\n"
    return aligned_table(HEADER, rows) + FOOT + about + doubts


def main(arguments: Sequence[str]) -> int:
    """Measure the combinations, write ``combine.json`` and ``.md``; return the exit status.

    Raises:
        FacePurifyError: If an option, the data or a model is not usable.
    """
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.bench combine",
        description="A purifier, a hardened recognizer, neither or both, under the same attacks.",
    )
    add_data_options(parser, "facepurify-bench")
    add_attack_options(parser)
    for option, default, what in (
        ("--plain", RECOGNIZER, "recognizer as it was"),
        ("--hardened", HARDENED, "recognizer after its hardening"),
        ("--purifier", read_manifest().default, "purifier before either"),
    ):
        parser.add_argument(
            option, default=default, metavar="NAME|FILE", help=f"{what} ({default})"
        )
    options = read_options(parser, arguments)
    defences = defences_beside_none([options.purifier])
    if len(defences) != 2:
        raise OptionError("expected a --purifier to combine with, got none")
    protocol = make_protocol(options, {**FULL, "attacks": ("pgd40",)})
    recognizers = open_recognizers([options.plain, options.hardened], options)
    results, _ = measure(read_pairs(options), recognizers, defences, protocol, options.out)
    table = render_combinations(results)
    write_results(results, options.out / "combine.json")
    write_text(f"{table}\n{render_markdown(results)}", options.out / "combine.md")
    sys.stdout.write(f"{table}\nwrote combine.json and combine.md into {options.out}\n")
    return 0
