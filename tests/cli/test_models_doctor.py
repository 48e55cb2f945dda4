"""``models`` and ``doctor``."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib import metadata

import onnxruntime
import pytest

from facepurify import weights
from facepurify.runtime import Session


@pytest.fixture
def shipped(tiny_model, tmp_path, monkeypatch):
    """A folder of shipped models with the tiny one in it."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copyfile(tiny_model, folder / "tiny.onnx")
    content = tiny_model.read_bytes()
    entry = {
        "file": "tiny.onnx",
        "card": "tiny.md",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "method": "PIN",
        "version": "0.1.0",
        "opset": 13,
        "input": {"name": "image", "shape": ["N", 3, 112, 112], "colour": "RGB", "range": [0, 1]},
        "outputs": ["purified", "probability", "score"],
        "masks": ["expected", "fixed", "sampled"],
        "score_threshold": 0.5,
        "training_data": ["UTKFace", "All-Age-Faces"],
        "licence": "research only",
        "parity": {"max_abs_difference": 0.0},
    }
    manifest = {"schema": 1, "default": "tiny", "models": {"tiny": entry}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(weights, "_FOLDERS", (folder,))
    return folder


def test_list(run, shipped):
    for arguments in (["models"], ["models", "list"]):
        status, out, _ = run(*arguments)
        assert status == 0
        assert "tiny (recommended): PIN, version 0.1.0" in out
        assert "UTKFace, All-Age-Faces" in out
        assert "research only" in out


def test_verify(run, shipped):
    status, out, err = run("models", "verify")
    digest = hashlib.sha256((shipped / "tiny.onnx").read_bytes()).hexdigest()
    assert (status, out, err) == (0, f"tiny: ok, sha256 {digest}\n", "")


@pytest.fixture
def recognizer(shipped):
    """A recognizer beside the tiny model; its contract is not a purifier's."""
    content = b"a recognizer"
    (shipped / "plain.onnx").write_bytes(content)
    manifest = json.loads((shipped / "manifest.json").read_text())
    manifest["recognizers"] = {
        "plain": {
            "file": "plain.onnx",
            "card": "plain.md",
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "version": "0.1.0",
            "training_data": ["actors"],
            "licence": "research only",
        }
    }
    (shipped / "manifest.json").write_text(json.dumps(manifest))
    return shipped / "plain.onnx"


def test_recognizers_are_verified_too(run, recognizer):
    digest = hashlib.sha256(b"a recognizer").hexdigest()
    status, out, err = run("models", "verify")
    assert (status, err) == (0, "")
    assert out.splitlines()[1:] == [f"recognizer plain: ok, sha256 {digest}"]
    status, out, _ = run("doctor")
    assert status == 0
    assert f"ok      recognizer plain: sha256 {digest}" in out


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_damaged_recognizers(run, recognizer, damage):
    if damage == "missing":
        recognizer.unlink()
    else:
        recognizer.write_bytes(b"b recognizer" if damage == "altered" else b"a recognize")
    status, out, err = run("models", "verify")
    assert status == 1
    assert out.startswith("tiny: ok, ")
    assert out.count("\n") == 1
    assert err.startswith("recognizer plain: expected ")
    status, out, _ = run("doctor")
    assert status == 1
    assert "broken  recognizer plain: expected " in out
    assert "ok      trial run" in out


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_damaged_models(run, shipped, damage):
    path = shipped / "tiny.onnx"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"?" if damage == "altered" else b""))
    status, out, err = run("models", "verify")
    assert (status, out) == (1, "")
    assert err.startswith("tiny: expected ")
    status, out, _ = run("doctor")
    assert status == 1
    assert "broken  model tiny: expected " in out
    assert "broken  trial run: expected " in out


def test_a_healthy_machine(run, shipped):
    status, out, err = run("doctor")
    assert (status, err) == (0, "")
    assert "ok      trial run: tiny purified a crop" in out
    assert "CPUExecutionProvider" in out


def test_json(run, shipped):
    status, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["healthy"] is True
    assert {"name", "status", "detail"} == set(report["checks"][0])
    (shipped / "manifest.json").write_text("{}")
    status, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert (status, report["healthy"]) == (1, False)
    assert report["checks"][-1]["status"] == "broken"


def test_rival_distributions_are_a_warning(run, shipped, monkeypatch):
    versions = {
        "onnxruntime": "1.20.0",
        "onnxruntime-gpu": "1.21.0",
        "opencv-python": "4.12.0.88",
        "opencv-python-headless": "4.12.0.88",
    }

    def version(name):
        if name in versions:
            return versions[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    status, out, _ = run("doctor")
    assert status == 0
    assert "warning onnxruntime distributions: expected one, got onnxruntime and onnx" in out
    assert "warning opencv distributions: expected one, got opencv-python and opencv-py" in out
    assert "torch: not installed (optional)" in out
    del versions["onnxruntime-gpu"], versions["opencv-python-headless"]
    assert "warning" not in run("doctor")[1]


def test_insightface_that_does_not_import(run, shipped, crop_file, tmp_path, monkeypatch):
    pytest.importorskip("insightface", reason="needs insightface")
    monkeypatch.setitem(sys.modules, "insightface.utils", None)
    status, out, _ = run("doctor")
    assert status == 0
    assert "warning insightface pack: expected insightface to import" in out
    status, _, err = run("purify", crop_file, "-o", tmp_path / "out")
    assert status == 1
    assert "expected insightface to import" in err


def test_insightface_that_was_compiled_for_another_numpy(
    run, shipped, crop_file, tmp_path, monkeypatch
):
    folder = tmp_path / "site" / "insightface"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ValueError('numpy.dtype size changed')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in [name for name in sys.modules if name.partition(".")[0] == "insightface"]:
        monkeypatch.delitem(sys.modules, name)
    status, out, _ = run("doctor")
    assert status == 0
    assert "warning insightface pack: expected insightface to import, got ValueError(" in out
    for options in ([], ["--pack", tmp_path]):
        status, _, err = run("purify", crop_file, "-o", tmp_path / "out", *options)
        assert status == 1
        assert "ValueError('numpy.dtype size changed')" in err


def test_a_gpu_that_is_not_there(run, shipped, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    status, out, _ = run("doctor")
    assert status == 0
    assert "ok      CUDAExecutionProvider: not in this build of ONNX Runtime" in out
    assert "ok      TensorrtExecutionProvider: not in this build" in out


def test_why_a_gpu_does_not_start(run, shipped, tmp_path, monkeypatch):
    listed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    original = onnxruntime.InferenceSession

    def on_the_cpu(content, options, **_):
        return original(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    status, out, _ = run("doctor")
    assert status == 0
    folder = tmp_path / "capi"
    assert (
        f"warning CUDAExecutionProvider: does not start: {folder} has no "
        "onnxruntime_providers_shared" in out
    )
    folder.mkdir()
    for name in ("shared", "cuda"):
        (folder / f"libonnxruntime_providers_{name}.so").write_bytes(b"no library")
    loaded = []

    def load(path, *_):
        loaded.append(path)
        if "cuda" in path:
            raise OSError("libcublasLt.so.12: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", load)
    status, out, _ = run("doctor")
    assert "CUDAExecutionProvider: does not start: libcublasLt.so.12: cannot open shared" in out
    assert "TensorrtExecutionProvider: does not start" in out
    assert "has no onnxruntime_providers_tensorrt" in out

    (folder / "libonnxruntime_providers_tensorrt.so").write_bytes(b"no library")
    assert "expected TensorrtExecutionProvider to start" in run("doctor")[1]
    monkeypatch.setattr(Session, "_open", lambda _: None)
    assert "ok      CUDAExecutionProvider: starts" in run("doctor")[1]
    (shipped / "tiny.onnx").unlink()
    assert "warning CUDAExecutionProvider: was not tried: expected" in run("doctor")[1]


def test_no_onnxruntime(run, shipped, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, out, _ = run("doctor")
    assert status == 1
    assert "broken  onnxruntime: " in out
    assert "ok      CUDAExecutionProvider: not there, as ONNX Runtime is not" in out
    assert 'pip install "facepurify[cpu]"' in out


@pytest.mark.parametrize("output", ["1", "2"])
def test_an_output_that_is_closed(output):
    command = f"{shlex.quote(sys.executable)} -m facepurify models list {output}>&-"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_reader_that_has_read_enough_gets_no_traceback():
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "facepurify", "models", "list"],
            stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(write)
    assert ended.stderr == ""
    assert ended.returncode == 1
