from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from facepurify.bench import shipped
from facepurify.bench.__main__ import main
from facepurify.bench.results import read_results
from facepurify.bench.shipped import shipped_recognizer
from facepurify.bench.smoke import smoke_pairs
from facepurify.errors import ModelChecksumError, ModelNotFoundError, OptionError
from facepurify.samples import sample_faces


def test_genuine_pairs_are_two_copies_of_one_photo():
    pairs = smoke_pairs()
    people = len(sample_faces())
    assert len(pairs.images) == 2 * people
    assert pairs.genuine.tolist() == [[person, people + person] for person in range(people)]
    assert len(pairs.impostor) == people * (people - 1)
    images = pairs.images.astype(float)
    for probe, reference in images[pairs.genuine]:
        mirrored = reference[:, ::-1]
        assert np.corrcoef(probe.ravel(), mirrored.ravel())[0, 1] > 0.8
        assert probe.mean() < reference.mean()
    assert smoke_pairs().sha256 == pairs.sha256


def test_the_run_without_data(recognizer_files: list[Path], tmp_path: Path, capsys):
    arguments = ["--recognizer", str(recognizer_files[0]), "--purifier", "grey"]
    assert main([*arguments, "--adaptive-limit", "1", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("SMOKE RUN.")
    results = read_results(tmp_path / "results.json")
    assert results.smoke
    assert {row.attacker for row in results.attacked} == {"oblivious", "query", "adaptive"}
    assert "Smoke run." in (tmp_path / "report.html").read_text("utf-8")


class Shipped:
    """A stand-in for the manifest, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.default = "pin"
        self.models = {"pin": self}
        self.path = folder / "pin.onnx"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped models with a recognizer."""
    (tmp_path / "recognizer.onnx").write_bytes(b"a recognizer")
    sha256 = hashlib.sha256(b"a recognizer").hexdigest()
    entry = {"file": "recognizer.onnx", "sha256": sha256}
    manifest = {"schema": 1, "recognizers": {"reference": entry}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    monkeypatch.setattr(shipped, "read_manifest", lambda: Shipped(tmp_path))
    return tmp_path


def test_the_shipped_recognizer(models: Path):
    assert shipped_recognizer() == models / "recognizer.onnx"


def test_an_altered_recognizer_is_refused(models: Path):
    (models / "recognizer.onnx").write_bytes(b"another")
    with pytest.raises(ModelChecksumError, match="was altered"):
        shipped_recognizer()


@pytest.mark.parametrize("missing", ["file", "entry", "section", "manifest"])
def test_without_a_shipped_recognizer_one_is_asked_for(
    models: Path, monkeypatch: pytest.MonkeyPatch, missing: str
):
    if missing == "file":
        (models / "recognizer.onnx").unlink()
    elif missing == "entry":
        (models / "manifest.json").write_text('{"schema": 1, "recognizers": {}}', "utf-8")
    elif missing == "section":
        (models / "manifest.json").write_text('{"schema": 1}', "utf-8")
    else:

        def none():
            raise ModelNotFoundError("no manifest")

        monkeypatch.setattr(shipped, "read_manifest", none)
    with pytest.raises(OptionError, match="expected --recognizer FILE"):
        shipped_recognizer()
