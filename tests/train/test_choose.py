"""Purifiers and guides that results are keyed by, and attackers who know the purifier."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from facepurify.bench.attacks import GOALS
from facepurify.bench.defences import get_defence
from facepurify.bench.metrics import cosine
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.train.__main__ import main
from facepurify.train.choose import held_out_trial, load_purifiers
from facepurify.train.faces import FaceSet


def test_purifiers_and_guides_of_one_name_are_refused(
    tiny_model: Path, guide_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(tiny_model, tmp_path / name / "same.onnx")
        shutil.copy(guide_file, tmp_path / name / "guide.onnx")
    models, guides = (
        [part for name in ("a", "b") for part in (option, str(tmp_path / name / file))]
        for option, file in (("--model", "same.onnx"), ("--guide", "guide.onnx"))
    )
    # Before anything is read, or attacked.
    assert main(["choose", "--data", "none", *guides[:2], *models]) == 1
    assert "purifiers of different names, got none, same, same" in capsys.readouterr().err
    for command in ("choose", "ais-search"):
        assert main([command, "--data", "none", *guides]) == 1
        assert "guides of different names, got guide, guide" in capsys.readouterr().err


def test_a_name_that_is_taken_by_no_purifier(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model, tmp_path / "none.onnx")
    with pytest.raises(OptionError, match="got none, none"):
        load_purifiers([str(tmp_path / "none.onnx")])


def test_who_knows_the_purifier_moves_what_comes_out_of_it_further(
    faces: FaceSet, guide: Recognizer
) -> None:
    defence = get_defence("gaussian2")
    trial = held_out_trial(faces, guide, pairs=6, attacked=6)
    known = trial.against(defence, 4)
    assert set(known.attacked) == {*trial.attacked, *(("adaptive", goal) for goal in GOALS)}
    for goal, sign in zip(GOALS, (-1, 1), strict=True):
        probes, victims = known.attacked["adaptive", goal]
        clean = trial.clean[goal][0][:4]
        assert 7 < np.abs(probes - clean).max() * 255 <= 8.001
        moved, blind = (
            sign * cosine(guide.embed_numpy(defence.purify(images)), victims).mean()
            for images in (probes, known.attacked["pgd20", goal][0][:4])
        )
        assert moved > blind + 0.01
