from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from facepurify.bench.__main__ import main
from facepurify.bench.combine import render_combinations
from facepurify.bench.hits import render_hits
from facepurify.bench.records import write_record
from facepurify.bench.results import OBLIVIOUS, write_results
from facepurify.bench.table import BEGIN, END, render_attacks, render_table, replace_table
from facepurify.errors import DataError
from tests.bench.sample_results import (
    JPEG75_AT_8,
    sample_combinations,
    sample_hits,
    sample_results,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recorded(tmp_path: Path) -> list[str]:
    """Arguments for one recorded run and a README with an old table."""
    (tmp_path / "results").mkdir()
    write_results(sample_results(), tmp_path / "results" / "run.json")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
    return ["table", "--results", str(tmp_path / "results"), "--readme", str(readme)]


def test_the_table_is_written_once_and_then_agrees(recorded: list[str], capsys):
    readme = Path(recorded[-1])
    assert main([*recorded, "--check"]) == 1
    assert "differs" in capsys.readouterr().out
    assert "old" in readme.read_text("utf-8")
    assert main(recorded) == 0
    written = readme.read_text("utf-8")
    assert written == f"# Before\n{BEGIN}\n{render_table([sample_results()])}{END}\nafter\n"
    assert main([*recorded, "--check"]) == 0
    assert main(recorded) == 0
    assert readme.read_text("utf-8") == written


def test_a_row_tells_clean_cost_and_every_attacker():
    row = "| faces, tiny | jpeg75 | 8 | 3.2 | 100 / 100 | 56.0 / 40.0 | 61.0 / 46.0 | 56.0 / 40.0 "
    assert f"{row}| 66.0 / 52.0 | 0.40 / 0.30 |" in render_table([sample_results()]).splitlines()


def test_the_foot_says_how_attacks_were_stored():
    assert "arrive through jpeg75." in render_table([sample_results()])
    unstored = replace(sample_results(), settings={"stored as": "-"})
    assert "arrive through nothing else: none was measured." in render_table([unstored])


def test_attacks_one_by_one_are_those_of_the_highest_budget():
    run = sample_results()
    head, _, first, *rest = (
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in render_attacks([run]).splitlines()
    )
    assert head == ["faces, tiny, 8/255", "none", "jpeg75", "<pin>"]
    assert first[0] == "genuine rejected, without an attack"
    dodged, impersonated, *_ = JPEG75_AT_8
    label = next(row.attack for row in run.attacked if row.attacker == OBLIVIOUS)
    (row,) = (cells for cells in rest if cells[0] == f"oblivious: {label}")
    assert row[2] == f"{dodged} / {impersonated}"
    assert len(rest) == len({(row.attacker, row.attack) for row in run.attacked})
    weak = replace(run, attacked=tuple(row for row in run.attacked if row.eps < 8))
    assert render_attacks([weak, run]) == render_attacks([run])


@pytest.fixture
def with_records(recorded: list[str], tmp_path: Path) -> list[str]:
    """The same with a run of either other command."""
    write_record(sample_hits(), tmp_path / "results" / "hits.json")
    write_results(sample_combinations(), tmp_path / "results" / "combine.json")
    return recorded


def test_records_without_marks_are_left_out(with_records: list[str]):
    readme = Path(with_records[-1])
    assert main(with_records) == 0
    written = readme.read_text("utf-8")
    assert written == f"# Before\n{BEGIN}\n{render_table([sample_results()])}{END}\nafter\n"


def test_records_are_written_between_their_marks(with_records: list[str], capsys):
    readme = Path(with_records[-1])
    marks = "".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("combine", "hits"))
    with readme.open("a", encoding="utf-8") as file:
        file.write(marks)
    assert main([*with_records, "--check"]) == 1
    assert main(with_records) == 0
    hits, combinations = render_hits(sample_hits()), render_combinations(sample_combinations())
    assert readme.read_text("utf-8").endswith(
        f"after\n<!-- combine:begin -->\n{combinations}<!-- combine:end -->\n"
        f"<!-- hits:begin -->\n{hits}<!-- hits:end -->\n"
    )
    assert main([*with_records, "--check"]) == 0
    readme.write_text(readme.read_text("utf-8").replace("75.0 [30.1", "70.0 [30.1"), "utf-8")
    assert main([*with_records, "--check"]) == 1


@pytest.mark.parametrize("name", ["hits", "combine"])
def test_marks_without_a_record_or_a_partner_are_errors(recorded: list[str], name: str, capsys):
    readme = Path(recorded[-1])
    text = readme.read_text("utf-8")
    readme.write_text(f"{text}<!-- {name}:begin --><!-- {name}:end -->", "utf-8")
    assert main(recorded) == 1
    assert f"{name}.json" in capsys.readouterr().err
    write_record(sample_hits(), Path(recorded[2]) / "hits.json")
    write_results(sample_combinations(), Path(recorded[2]) / "combine.json")
    readme.write_text(f"{text}<!-- {name}:end -->", "utf-8")
    assert main(recorded) == 1
    assert "once each" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{END}", f"{BEGIN}{BEGIN}{END}"]
)
def test_a_readme_without_the_marks_is_refused(text: str):
    with pytest.raises(DataError, match="once each"):
        replace_table(text, "table")


def test_missing_runs_and_readme_are_errors(recorded: list[str], tmp_path: Path, capsys):
    assert main(["table", "--results", str(tmp_path)]) == 1
    assert "there is no .json file" in capsys.readouterr().err
    assert main([*recorded[:-1], str(tmp_path / "nowhere.md")]) == 1
    assert "expected a README" in capsys.readouterr().err


def test_this_readme_agrees_with_the_recorded_runs():
    results = ROOT / "benchmarks" / "results"
    if not list(results.glob("*.json")):
        pytest.skip("no recorded runs in benchmarks/results yet")
    arguments = ["--check", "--results", str(results), "--readme", str(ROOT / "README.md")]
    assert main(["table", *arguments]) == 0
