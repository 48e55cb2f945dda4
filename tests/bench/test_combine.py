from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepurify.bench.__main__ import main
from facepurify.bench.attacks import PGD
from facepurify.bench.combine import render_combinations
from facepurify.bench.options import FULL
from facepurify.bench.pairs import Pairs
from facepurify.bench.results import ADAPTIVE, OBLIVIOUS, TRANSFER, read_results
from facepurify.errors import DataError
from tests.bench.sample_results import JPEG75_AT_8, sample_combinations, sample_results


def table(text: str) -> list[list[str]]:
    """The cells of a Markdown table."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_four_rows_with_clean_cost_and_both_attackers():
    header, _, *rows = table(render_combinations(sample_combinations()))
    assert header[:4] == ["protection", "eps", "genuine rejected", "pairs"]
    at_eight = [row for row in rows if row[1] == "8"]
    assert [row[0] for row in at_eight] == ["neither", "purifier jpeg75", "hardened hard", "both"]
    both = at_eight[-1]
    assert both[2:4] == ["3.2", "100 / 100"]
    assert [cell.split()[0] for cell in both[4:]] == JPEG75_AT_8
    assert both[4] == "56.0 [46.2, 65.3]"
    assert len(rows) == 2 * len(at_eight)


def test_a_failed_self_check_is_said():
    assert "WARNING" not in render_combinations(sample_combinations())
    text = render_combinations(sample_combinations(failed_check=True))
    assert "do not trust the adaptive figure: none in front of tiny" in text


@pytest.mark.parametrize("field", ["recognizers", "defences"])
def test_another_run_is_refused(field: str):
    run = sample_combinations()
    with pytest.raises(DataError, match="expected a run on two recognizers"):
        render_combinations(dataclasses.replace(run, **{field: getattr(run, field)[:1]}))
    with pytest.raises(DataError, match="expected a run on two recognizers"):
        render_combinations(dataclasses.replace(run, defences=run.defences[::-1]))
    with pytest.raises(DataError, match="got tiny and none, jpeg75, <pin>"):
        render_combinations(sample_results())


@pytest.fixture
def faces(people_pairs: Pairs, tmp_path: Path) -> Path:
    """The made-up people as a folder of identities."""
    for index, image in enumerate(people_pairs.images):
        folder = tmp_path / "faces" / f"P{index // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index % 2}.png"), np.ascontiguousarray(image[..., ::-1]))
    return tmp_path / "faces"


def test_the_command(
    faces: Path,
    recognizer_files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
):
    short = {norm: (PGD(norm, steps=3),) for norm in ("linf", "l2")}
    monkeypatch.setattr("facepurify.bench.evaluate.ADAPTIVE_ATTACKS", short)
    monkeypatch.setitem(FULL, "query", "square10")
    plain, hardened = recognizer_files
    out = tmp_path / "out"
    arguments = ["combine", "--data", str(faces), "--out", str(out), "--attack", "pgd3"]
    arguments += ["--limit", "4", "--adaptive-limit", "2", "--threads", "1"]
    arguments += ["--plain", str(plain)]
    given = ["--hardened", str(hardened), "--purifier", "grey"]
    assert main([*arguments, *given]) == 0
    results = read_results(out / "combine.json")
    text = render_combinations(results)
    assert text in capsys.readouterr().out
    assert (out / "combine.md").read_text("utf-8").startswith(text)
    assert [row[0] for row in table(text)[2:]] == [
        "neither",
        "purifier grey",
        "hardened two",
        "both",
    ]
    kinds = {(row.recognizer, row.defence, row.attacker) for row in results.attacked}
    for kind in (OBLIVIOUS, TRANSFER, ADAPTIVE):
        for recognizer in ("one", "two"):
            assert {(recognizer, "none", kind), (recognizer, "grey", kind)} <= kinds
    assert main([*arguments, "--hardened", str(hardened), "--purifier", "none"]) == 1
    assert "expected a --purifier" in capsys.readouterr().err
    twin = tmp_path / plain.name
    shutil.copy(hardened, twin)
    assert main([*arguments, "--hardened", str(twin), "--purifier", "grey"]) == 1
    assert "different names" in capsys.readouterr().err
