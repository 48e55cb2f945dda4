from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facepurify.bench import closeness as closeness_module
from facepurify.bench.__main__ import main
from facepurify.bench.attacks import FGSM, PGD
from facepurify.bench.closeness import (
    ATTACKS,
    Closeness,
    embedding_distance,
    measure_closeness,
    read_closeness,
    render_closeness,
)
from facepurify.bench.defences import get_defence
from facepurify.bench.pairs import Pairs
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.steps import to_float
from facepurify.errors import OptionError, SeedError

SHORT = {"FGSM": FGSM(), "I-FGSM 2": PGD(steps=2, random_start=False)}
DEFENCES = ("none", "grey")


@pytest.fixture(scope="module")
def recognizers(recognizer_files: list[Path]) -> list[Recognizer]:
    return [Recognizer.from_onnx(path, threads=1) for path in recognizer_files]


@pytest.fixture(scope="module")
def measured(
    people_pairs: Pairs, recognizers: list[Recognizer], tmp_path_factory: pytest.TempPathFactory
) -> Closeness:
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closeness_module, "ATTACKS", SHORT)
        return measure_closeness(
            people_pairs, recognizers, [*map(get_defence, DEFENCES)], out, limit=4, eps=8, seed=0
        )


def test_the_attacks_are_the_papers():
    assert {
        "FGSM": FGSM(),
        "I-FGSM 2": PGD(steps=2, random_start=False),
        "I-FGSM 4": PGD(steps=4, random_start=False),
        "I-FGSM 8": PGD(steps=8, random_start=False),
    } == ATTACKS


def test_distance_by_hand():
    one = np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)
    other = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert embedding_distance(one, other) == pytest.approx((0.4 + 0.8) / 2**0.5 / 2)


def test_every_judge_sees_every_makers_attacks(measured: Closeness):
    keys = {(row.judge, row.maker, row.defence, row.attack) for row in measured.rows}
    assert keys == {
        (judge, maker, defence, attack)
        for judge in ("one", "two")
        for maker in ("one", "two")
        for defence in DEFENCES
        for attack in ("clean", *SHORT)
        if attack != "clean" or judge == maker
    }
    assert {row.faces for row in measured.rows} == {8}


def test_what_is_far_and_what_is_near(
    measured: Closeness, people_pairs: Pairs, recognizers: list[Recognizer]
):
    found = {(row.judge, row.maker, row.defence, row.attack): row for row in measured.rows}
    untouched = found["one", "one", "none", "clean"]
    assert (untouched.embedding, untouched.pixels) == (0, 0)
    for name, other in (("one", "two"), ("two", "one")):
        white, black = (found[name, maker, "none", "FGSM"] for maker in (name, other))
        assert white.embedding > 1.5 * black.embedding > 0
        # FGSM moves nearly every pixel by the whole budget.
        assert 6 < white.pixels <= 8
    images = people_pairs.images
    grey = get_defence("grey").purify(to_float(images))
    low, high = (
        np.sort(255 * np.abs(grey - to_float(images)).mean(axis=(1, 2, 3)))[end] for end in (0, -1)
    )
    row = found["one", "one", "grey", "clean"]
    assert low <= row.pixels <= high
    clean, purified = recognizers[0].embed_numpy(to_float(images)), recognizers[0].embed_numpy(grey)
    shifts = [embedding_distance(a[None], b[None]) for a, b in zip(clean, purified, strict=True)]
    assert min(shifts) <= row.embedding <= max(shifts)


def test_the_table_names_the_boxes(measured: Closeness):
    lines = [line for line in render_closeness(measured).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["judged by", "attacked on", "purifier", "clean", "FGSM", "I-FGSM 2"]
    assert [row[:3] for row in cells[2:6]] == [
        ["one", "one (white box)", "none"],
        ["one", "one (white box)", "grey"],
        ["one", "two (black box)", "none"],
        ["one", "two (black box)", "grey"],
    ]
    assert cells[2][3] == "0.0000 / 0.00"
    assert len(cells) == 2 + 8


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"limit": 0, "eps": 8, "seed": 0}, OptionError, "limit >= 1"),
        ({"limit": 1, "eps": 0, "seed": 0}, OptionError, "whole grey levels from 1 to 255, got 0"),
        ({"limit": 1, "eps": 8.5, "seed": 0}, OptionError, "from 1 to 255, got 8.5"),
        ({"limit": 1, "eps": 8, "seed": -1}, SeedError, "seed >= 0, got -1"),
    ],
)
def test_numbers_without_sense_are_refused(
    people_pairs: Pairs, recognizers: list[Recognizer], tmp_path: Path, options, error, message
):
    with pytest.raises(error, match=message):
        measure_closeness(people_pairs, recognizers, [get_defence("none")], tmp_path, **options)


def test_the_command(
    people_pairs: Pairs,
    recognizer_files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
):
    for index, image in enumerate(people_pairs.images):
        folder = tmp_path / "faces" / f"P{index // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index % 2}.png"), np.ascontiguousarray(image[..., ::-1]))
    monkeypatch.setattr(closeness_module, "ATTACKS", {"FGSM": FGSM()})
    out = tmp_path / "out"
    arguments = ["closeness", "--recognizer", str(recognizer_files[0]), "--purifier", "grey"]
    arguments += ["--data", str(tmp_path / "faces"), "--limit", "2", "--out", str(out)]
    assert main(arguments) == 0
    table = (out / "closeness.md").read_text("utf-8")
    assert table == render_closeness(read_closeness(out / "closeness.json"))
    assert table in capsys.readouterr().out
    assert (out / "closeness.png").stat().st_size > 5000
