from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from facepurify import weights
from facepurify.bench.__main__ import main
from facepurify.bench.results import read_results
from facepurify.bench.shipped import find_recognizer, shipped_recognizer
from facepurify.bench.smoke import smoke_pairs
from facepurify.errors import ModelChecksumError, OptionError
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
    attackers = {row.attacker for row in results.attacked}
    assert attackers == {"oblivious", "stored", "query", "adaptive"}
    assert "Smoke run." in (tmp_path / "report.html").read_text("utf-8")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped models with two recognizers."""
    entries = {}
    for name in ("recognizer-mter", "recognizer"):
        content = f"the {name}".encode()
        (tmp_path / f"{name}.onnx").write_bytes(content)
        entries[name] = {
            "file": f"{name}.onnx",
            "card": f"{name}.md",
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "version": "0.1.0",
            "training_data": ["none"],
            "licence": "Apache-2.0",
        }
    purifier = {**entries["recognizer"], "method": "PIN", "masks": [], "score_threshold": None}
    manifest = {"schema": 1, "default": "pin", "models": {"pin": purifier}, "recognizers": entries}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    monkeypatch.setattr(weights, "_FOLDERS", (tmp_path,))
    return tmp_path


def test_shipped_recognizers_go_by_name(models: Path):
    assert shipped_recognizer() == models / "recognizer.onnx"
    assert shipped_recognizer("recognizer-mter") == models / "recognizer-mter.onnx"


def test_a_recognizer_is_a_name_or_a_path(models: Path):
    assert find_recognizer("recognizer-mter") == models / "recognizer-mter.onnx"
    assert find_recognizer("recognizer.onnx") == Path("recognizer.onnx")
    with pytest.raises(OptionError, match=r"recognizer-mter, recognizer, got 'mine'"):
        find_recognizer("mine")


def test_an_altered_recognizer_is_refused(models: Path):
    (models / "recognizer.onnx").write_bytes(b"another")
    with pytest.raises(ModelChecksumError, match="was altered"):
        shipped_recognizer()
    assert shipped_recognizer("recognizer-mter").is_file()


@pytest.mark.parametrize("missing", ["file", "entry", "section", "manifest"])
def test_without_a_shipped_recognizer_one_is_asked_for(models: Path, missing: str):
    path = models / "manifest.json"
    if missing == "file":
        (models / "recognizer.onnx").unlink()
    elif missing == "manifest":
        path.unlink()
    else:
        manifest = json.loads(path.read_text("utf-8"))
        removed = manifest.pop("recognizers")
        del removed["recognizer"]
        if missing == "entry":
            manifest["recognizers"] = removed
        path.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(OptionError, match=r"expected a recognizer to attack, FILE\.onnx"):
        shipped_recognizer()
