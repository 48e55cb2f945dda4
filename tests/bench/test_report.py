from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from facepurify.bench.defences import get_defence
from facepurify.bench.report import (
    SMOKE_NOTE,
    render_html,
    render_markdown,
    render_terminal,
    write_report,
)
from facepurify.bench.results import ADAPTIVE, Results
from facepurify.bench.sheet import draw_sheet
from facepurify.bench.summary import headlines, lines
from facepurify.errors import OutputError
from tests.bench.browser import inspect_page
from tests.bench.sample_results import sample_results


@pytest.fixture(scope="module")
def results() -> Results:
    return sample_results()


@pytest.fixture(scope="module")
def sheet() -> bytes:
    faces = np.random.default_rng(0).integers(0, 255, (2, 112, 112, 3), np.uint8)
    return draw_sheet(faces, faces, [get_defence("none"), get_defence("grey")])


def test_no_line_stands_without_clean_cost_and_adaptive_figure(results: Results):
    shown = list(lines(results))
    assert len(shown) == len(results.attacked)
    for line in shown:
        assert line.clean.defence == line.adaptive.defence == line.row.defence
        assert line.adaptive.attacker == ADAPTIVE
        assert line.adaptive.eps == line.row.eps


def test_headlines_take_the_worst_of_each_attacker(results: Results):
    (line,) = [h for h in headlines(results) if (h.clean.defence, h.eps) == ("<pin>", 8.0)]
    assert line.oblivious.dodging.hits == 32
    assert line.black_box.impersonation.hits == 16
    assert line.adaptive.dodging.hits == 42
    assert line.latency.batch_1 == 0.5


def test_terminal_table(results: Results):
    table = render_terminal(results).splitlines()
    rows = [row.split() for row in table if " oblivious " in row or " adaptive " in row]
    assert len(rows) == 3 * 2 * 3
    for row in rows:
        assert row[1] in ("1.6", "3.2", "4.8")
        assert row[-2] == "/"
    assert max(map(len, table)) <= 140
    assert not any("WARNING" in row or "SMOKE" in row for row in table)
    assert sum("self-check ok" in row for row in table) == 6


def test_warnings_and_the_smoke_note_are_everywhere():
    results = sample_results(smoke=True, failed_check=True)
    for text in (render_terminal(results), render_markdown(results), render_html(results)):
        assert SMOKE_NOTE.split(":")[0] in text
        assert "more steps do no harm (93.0 % then 95.0 %)" in text
        assert re.search("(WARNING|Warning)", text)


def test_markdown_tables_are_whole(results: Results):
    columns = None
    for row in render_markdown(results).splitlines():
        if not row.startswith("|"):
            columns = None
            continue
        count = row.count("|")
        assert columns in (None, count), row
        columns = count


class Page(HTMLParser):
    """Collects what a page links to, and checks that its tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_from_outside(results: Results, sheet: bytes):
    page = Page()
    text = render_html(results, sheet)
    page.feed(text)
    assert not page.open
    assert len(page.links) == 1 + 5 + 1
    assert all(link.startswith("data:") for link in page.links)
    assert "<pin>" not in text
    assert "url(" not in text


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_in_a_browser(sheet: bytes, tmp_path: Path, width: int):
    text = render_html(sample_results(smoke=True, failed_check=True), sheet)
    opened = text.replace("<details>", "<details open>")
    found = inspect_page(opened, width, tmp_path)
    assert found["width"] == width
    assert found["errors"] == []
    assert found["images"] == [True] * 6
    assert found["overflow"] <= 0
    assert found["wide"] == []
    assert found["tiny"] == []


def test_a_bad_page_is_seen_to_be_bad(tmp_path: Path):
    """The check above can fail."""
    page = (
        "<!doctype html><head></head><body><img src='https://localhost/missing.png'>"
        "<p style='width:900px;font-size:5px'>wide</p><script>nothing()</script></body>"
    )
    found = inspect_page(page, 400, tmp_path)
    assert any("nothing" in error for error in found["errors"])
    assert any("blocked" in error for error in found["errors"])
    assert found["images"] == [False]
    assert found["overflow"] > 0
    assert found["wide"]
    assert found["tiny"]


def test_reports_are_written(results: Results, tmp_path: Path):
    write_report(results, tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8") == render_html(results)
    assert (tmp_path / "report.md").read_text("utf-8") == render_markdown(results)
    with pytest.raises(OutputError):
        write_report(results, tmp_path / "nowhere")
