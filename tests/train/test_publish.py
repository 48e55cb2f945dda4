"""What goes into a manifest, and what is not begun."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facepurify.train.__main__ import main
from facepurify.train.publish import Origin, publish_purifier, publish_recognizer
from facepurify.train.runs import describe_run
from facepurify.train.uddn import UddnNet
from facepurify.weights import read_manifest


def test_only_a_purifier_becomes_the_default(
    tiny_model: Path, guide_file: Path, tmp_path: Path
) -> None:
    origin = Origin(["random faces"], "none")

    def publish(name: str) -> None:
        publish_purifier(
            tiny_model, tmp_path, name, origin,
            method="PIN", masks=[], threshold=0.5, difference=0.0,
        )  # fmt: skip

    publish_recognizer(guide_file, tmp_path, "guide", origin)
    manifest = read_manifest(tmp_path)
    assert (manifest.default, list(manifest.recognizers)) == ("", ["guide"])
    publish("first")
    publish("second")
    publish_recognizer(guide_file, tmp_path, "another", origin)
    manifest = read_manifest(tmp_path)
    assert (manifest.default, list(manifest.models)) == ("first", ["first", "second"])


def test_an_export_without_held_out_faces_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    describe_run("run", "UDDN", size="light")
    torch.save({"parts": {"net": UddnNet().state_dict()}}, "run/checkpoint.pt")
    Path("few").mkdir()
    cv2.imwrite("few/0.png", np.full((112, 112, 3), 120, np.uint8))
    assert main(["export", "--run", "run", "--data", "few", "-o", "out.onnx"]) == 1
    assert "expected faces of which some are held out" in capsys.readouterr().err
    assert not Path("out.onnx").exists()
