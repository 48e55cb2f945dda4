from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from facepurify import Purifier, weights
from facepurify.errors import (
    ModelChecksumError,
    ModelContractError,
    ModelNotFoundError,
)
from facepurify.weights import read_manifest, read_model, verify_recognizer

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped models with the tiny one as ``tiny``."""
    content = tiny_model.read_bytes()
    (tmp_path / "tiny.onnx").write_bytes(content)
    entry = {
        "file": "tiny.onnx",
        "card": "tiny.md",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "method": "PIN",
        "version": "0.1.0",
        "opset": 13,
        "masks": ["fixed", "expected", "sampled"],
        "score_threshold": 0.4,
        "training_data": ["none"],
        "licence": "Apache-2.0",
    }
    manifest = {"schema": 1, "default": "tiny", "models": {"tiny": entry}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(weights, "_FOLDERS", (tmp_path / "absent", tmp_path))
    return tmp_path


def edit(folder: Path, **fields: Any) -> None:
    """Change fields of the one entry of a manifest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["models"]["tiny"].update(fields)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("model", [None, "tiny"])
def test_shipped_model(folder: Path, model: str | None) -> None:
    file = read_model(model)
    assert file.name == "tiny"
    assert file.path == folder / "tiny.onnx"
    assert file.entry == read_manifest().models["tiny"]
    info = Purifier(model).info
    assert info.masks[0] == "fixed"  # the manifest's order
    assert info.score_threshold == 0.4


@pytest.mark.parametrize("kind", [str, Path])
def test_file_of_ones_own(tiny_model: Path, kind: type) -> None:
    file = read_model(kind(tiny_model))
    assert (file.name, file.path, file.entry) == ("tiny", tiny_model, None)
    assert file.sha256 == hashlib.sha256(tiny_model.read_bytes()).hexdigest()


def test_relative_path_becomes_absolute(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model.parent)
    assert read_model("tiny.onnx").path == tiny_model


def test_unknown_name_lists_the_known(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"models tiny.*got 'pim'"):
        read_model("pim")


def test_missing_file(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nowhere\.onnx"):
        read_model(folder / "nowhere.onnx")
    with pytest.raises(ModelNotFoundError, match="directory"):
        read_model(folder)
    (folder / "tiny.onnx").unlink()
    with pytest.raises(ModelNotFoundError, match="reinstall"):
        read_model()


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="manifest"):
        read_manifest(tmp_path)


def test_altered_model(folder: Path) -> None:
    content = bytearray((folder / "tiny.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "tiny.onnx").write_bytes(content)
    with pytest.raises(ModelChecksumError, match="altered"):
        read_model()


def test_truncated_model(folder: Path, tiny_model: Path) -> None:
    (folder / "tiny.onnx").write_bytes(tiny_model.read_bytes()[:-1])
    with pytest.raises(ModelChecksumError):
        read_model()


def test_truncated_file_of_ones_own(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "short.onnx"
    path.write_bytes(tiny_model.read_bytes()[:200])
    with pytest.raises(ModelContractError, match="truncated"):
        read_model(path)


def test_a_file_over_the_cap_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ModelContractError, match="larger"):
        read_model(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_would_wait_for_ever_or_never_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    os.mkfifo(tmp_path / "manifest.json")
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    for name in ("pipe.onnx", "zero.onnx"):
        with pytest.raises(ModelNotFoundError, match="no regular file"):
            read_model(tmp_path / name)
    with pytest.raises(ModelNotFoundError, match="no regular file"):
        read_manifest(tmp_path)


def test_links_are_followed_to_a_file_and_its_checksum_holds(folder: Path, tmp_path: Path) -> None:
    content = (folder / "tiny.onnx").read_bytes()
    (folder / "elsewhere").write_bytes(content)
    (folder / "tiny.onnx").unlink()
    (folder / "tiny.onnx").symlink_to(folder / "elsewhere")
    assert read_model().content == content
    (folder / "elsewhere").write_bytes(content[:-1] + b"?")
    with pytest.raises(ModelChecksumError):
        read_model()
    (folder / "loop.onnx").symlink_to(folder / "loop.onnx")
    with pytest.raises(ModelNotFoundError):
        read_model(folder / "loop.onnx")


def test_a_path_that_cannot_be() -> None:
    for name in ("null\0.onnx", "long" * 5000 + ".onnx"):
        with pytest.raises(ModelNotFoundError):
            read_model(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"file": "../tiny.onnx"},
        {"card": "/etc/passwd"},
        {"card": ".."},
        {"file": ""},
        {"bytes": float("inf")},
        {"score_threshold": 10**400},
        {"score_threshold": float("nan")},
        {"score_threshold": -0.1},
        {"sha256": None, "bytes": "many"},
        {"masks": 3},
        {"score_threshold": "high"},
    ],
)
def test_malformed_entry(folder: Path, fields: dict[str, Any]) -> None:
    edit(folder, **fields)
    with pytest.raises(ModelContractError, match="malformed"):
        read_manifest()


@pytest.mark.parametrize(
    "entry", [{"file": "../plain.onnx"}, {"bytes": "many"}, {"licence": None, "version": 1}, []]
)
def test_malformed_recognizer(folder: Path, entry: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["recognizers"] = {"plain": entry}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ModelContractError, match="malformed"):
        read_manifest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        100_000 * "[",
        '{"schema": 2}',
        '{"schema": 1, "default": "x", "models": {}}',
        "\xff",
    ],
)
def test_malformed_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(ModelContractError, match="malformed"):
        read_manifest(tmp_path)


def test_masks_that_the_file_does_not_have(folder: Path) -> None:
    edit(folder, masks=["expected", "learned"])
    with pytest.raises(ModelContractError, match="masks"):
        read_model()


@pytest.mark.skipif(
    not (MODELS / "manifest.json").is_file(), reason="needs the shipped models in models/"
)
class TestShipped:
    """The models of this repository."""

    @pytest.fixture(params=list(read_manifest(MODELS).models) if MODELS.is_dir() else [])
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_is_sound(self, name: str) -> None:
        file = read_model(name)
        assert file.entry is not None
        assert file.entry.card.is_file()
        assert file.entry.bytes <= 12_000_000

    def test_a_plain_run_uses_the_default_mask(self, name: str) -> None:
        with Purifier(name, threads=1) as purifier:
            batch = np.random.default_rng(0).random((2, 3, 112, 112), np.float32)
            expected = purifier.purify_canonical(batch)
        session = onnxruntime.InferenceSession(
            read_model(name).content, providers=["CPUExecutionProvider"]
        )
        (plain,) = session.run(["purified"], {"image": batch})
        np.testing.assert_allclose(plain, expected.images, atol=1e-6)

    @pytest.mark.parametrize("name", read_manifest(MODELS).recognizers if MODELS.is_dir() else [])
    def test_recognizers_are_what_the_manifest_says(self, name: str) -> None:
        entry = verify_recognizer(name)
        assert entry == read_manifest(MODELS).recognizers[name]
        assert entry.card.is_file()
