"""Purifiers and guides that results are keyed by."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from facepurify.errors import OptionError
from facepurify.train.__main__ import main
from facepurify.train.choose import load_purifiers


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
