from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from facepurify.bench.__main__ import main
from facepurify.bench.plots import draw_trade
from facepurify.bench.records import write_record
from facepurify.bench.results import Results, write_results
from facepurify.bench.trade import render_trade, traded
from facepurify.errors import DataError
from tests.bench.sample_results import DEFENCES, JPEG75_AT_8, sample_hits, sample_results


def renamed(run: Results, old: str, new: str) -> Results:
    """The run with one defence under another name."""

    def changed(rows):
        return tuple(
            dataclasses.replace(row, defence=new) if row.defence == old else row for row in rows
        )

    return dataclasses.replace(run, clean=changed(run.clean), attacked=changed(run.attacked))


def test_runs_are_joined_and_chosen_from():
    both = [sample_results(), renamed(sample_results(), "jpeg75", "robust")]
    lines = traded(both, "tiny", [])
    assert {(line.clean.defence, line.eps) for line in lines} == {
        (name, eps) for name in (*DEFENCES, "robust") for eps in (4.0, 8.0)
    }
    assert len(lines) == 8
    chosen = traded(both, "tiny", ["robust"])
    assert [line.clean.defence for line in chosen] == ["robust", "robust"]


def test_what_cannot_be_compared_is_refused():
    run = sample_results()
    other = dataclasses.replace(run, data=dataclasses.replace(run.data, sha256="0" * 64))
    with pytest.raises(DataError, match="got 2 kinds"):
        traded([run, other], "tiny", [])
    with pytest.raises(DataError, match="got 0 kinds"):
        traded([run], "huge", [])
    with pytest.raises(DataError, match="expected magic in the recorded runs"):
        traded([run], "tiny", ["magic"])


def test_the_table_says_cost_and_both_attackers():
    text = render_trade(traded([sample_results()], "tiny", ["jpeg75"]))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert cells[3][:4] == ["jpeg75", "8", "3.2", "100 / 100"]
    assert [cell.split()[0] for cell in cells[3][4:]] == JPEG75_AT_8


def test_the_picture_has_four_panels_and_every_purifier():
    plot = draw_trade("tiny", traded([sample_results()], "tiny", []))
    for panel in ("dodging, oblivious", "dodging, adaptive", "impersonation, adaptive"):
        assert f"<!-- {panel} -->" in plot.svg
    for name in ("none", "jpeg75"):
        assert f"<!-- {name} -->" in plot.svg
    assert "4, 8 of 255" in plot.caption


def test_the_command(tmp_path: Path, capsys):
    records, out = tmp_path / "results", tmp_path / "out"
    records.mkdir()
    write_results(sample_results(), records / "run.json")
    write_record(sample_hits(), records / "hits.json")
    assert main(["trade", "--results", str(records), "--out", str(out)]) == 0
    table = (out / "trade.md").read_text("utf-8")
    assert table in capsys.readouterr().out
    assert (out / "trade.svg").read_text("utf-8").startswith("<?xml")
    assert main(["trade", "--results", str(out), "--out", str(out)]) == 1
    assert f"expected recorded runs, got none in {out}\n" in capsys.readouterr().err
