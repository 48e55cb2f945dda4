"""A run's results for people: a table in the terminal, ``report.md`` and ``report.html``."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from facepurify.bench.plots import draw_plots
from facepurify.bench.results import Results
from facepurify.bench.summary import both, headlines, interval, lines, percent, rate, warnings
from facepurify.errors import OutputError
from facepurify.files import atomic_path

__all__ = [
    "SMOKE_NOTE",
    "render_html",
    "render_markdown",
    "render_terminal",
    "write_report",
    "write_text",
]

SMOKE_NOTE = (
    "This is a smoke run on a handful of bundled photos, whose genuine pairs are two altered "
    "copies of one photo: it shows that everything works and measures nothing. "
    "Measure with --data and --pairs."
)


def render_terminal(results: Results) -> str:
    """Return the table for the terminal: every attack beside clean cost and adaptive figure."""
    return _render("report.txt.j2", results)


def render_markdown(results: Results) -> str:
    """Return the report as Markdown, without pictures."""
    return _render("report.md.j2", results)


def render_html(results: Results, sheet: bytes | None = None) -> str:
    """Return the report as one HTML page that needs nothing from outside.

    Args:
        results: Of one run.
        sheet: A PNG of example faces, where the data's licence allows to show them.
    """
    plots = [
        (plot, _data_uri("image/svg+xml", plot.svg.encode("utf-8"))) for plot in draw_plots(results)
    ]
    examples = None if sheet is None else _data_uri("image/png", sheet)
    return _render("report.html.j2", results, plots=plots, sheet=examples)


def write_report(results: Results, folder: Path, sheet: bytes | None = None) -> None:
    """Write ``report.md`` and ``report.html`` into ``folder``, which must exist.

    Raises:
        OutputError: If they cannot be written.
    """
    for name, text in (
        ("report.md", render_markdown(results)),
        ("report.html", render_html(results, sheet)),
    ):
        write_text(text, folder / name)


def write_text(text: str, path: Path) -> None:
    """Write a report.

    Raises:
        OutputError: If the file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(f"expected to write {path}: {error}") from error


def _render(template: str, results: Results, **more: object) -> str:
    environment = Environment(
        loader=PackageLoader("facepurify.bench"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(both=both, interval=interval, percent=percent, rate=rate)
    return environment.get_template(template).render(
        results=results,
        headlines=headlines(results),
        lines=list(lines(results)),
        warnings=warnings(results),
        smoke_note=SMOKE_NOTE,
        **more,
    )


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
