from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from facepurify import Purifier, runtime
from facepurify.errors import (
    MissingExtraError,
    ModelContractError,
    ModelOutputError,
    OptionError,
    ProviderError,
)
from facepurify.runtime import Session


@pytest.fixture
def content(invert_model: Path) -> bytes:
    return invert_model.read_bytes()


def test_runs_on_the_cpu_by_default(content: bytes) -> None:
    (out,) = Session(content).run(["purified"], {"image": np.zeros((2, 3, 112, 112), np.float32)})
    assert (out == 1).all()


def test_threads_reach_the_session(content: bytes) -> None:
    session = Session(content, threads=3)
    assert session._opened[1].get_session_options().intra_op_num_threads == 3


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True, 1025, 10**20])
def test_wrong_threads(content: bytes, threads: object) -> None:
    with pytest.raises(OptionError, match="threads >= 1"):
        Session(content, threads=threads)


@pytest.mark.parametrize(
    "providers",
    [[], "CPUExecutionProvider", (), 3, b"CPU", [("CPUExecutionProvider", {"use_arena": "0"})]],
)
def test_wrong_providers(content: bytes, providers: object) -> None:
    with pytest.raises(OptionError, match="list of provider names"):
        Session(content, providers)


def test_a_provider_that_is_not_there(content: bytes) -> None:
    with pytest.raises(ProviderError, match="NoSuchExecutionProvider"):
        Session(content, ["NoSuchExecutionProvider", "CPUExecutionProvider"])


def test_a_provider_that_does_not_start(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # As with CUDA where its libraries are missing: listed as available, dropped at the start.
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    original = onnxruntime.InferenceSession

    def on_the_cpu(content: bytes, options: object, **_: object) -> object:
        return original(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    with pytest.raises(ProviderError, match="CUDAExecutionProvider to start"):
        Session(content, listed)


def test_a_provider_that_fails_is_not_the_models_fault(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with CUDA where its libraries are there and the device is not.
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    original = onnxruntime.InferenceSession

    def no_device(content: bytes, options: object, *, providers: list[str], **_: object) -> object:
        if "CUDAExecutionProvider" in providers:
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
        return original(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", no_device)
    with pytest.raises(ProviderError, match="to start, got CUDA failure 100"):
        Session(content, ["CUDAExecutionProvider"])
    with pytest.raises(ModelContractError, match="refuses"):
        Session(b"not a model", ["CUDAExecutionProvider"])


def test_bound_tensors_give_what_plain_ones_give(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Session(tiny_model.read_bytes(), threads=1)
    feeds = {
        "image": np.random.default_rng(0).random((5, 112, 3, 112), np.float32).swapaxes(1, 2),
        "mask_mode": np.array([1], np.int64),
    }
    names = ["purified", "probability", "score"]
    expected = plain.run(names, feeds)
    # the CPU in the part of a device: the same code, without the hardware
    monkeypatch.setattr(runtime, "_DEVICES", {"CPUExecutionProvider": "cpu"})
    bound = Session(tiny_model.read_bytes(), threads=1)
    monkeypatch.setattr(bound._opened[1], "run", lambda *_: pytest.fail("not bound"))
    for got, want in zip(bound.run(names, feeds), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    with pytest.raises(ModelOutputError, match="the model failed"):
        bound.run(names, {"image": np.zeros((1, 3, 5, 5), np.float32)})


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs ONNX Runtime for GPUs",
)
@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_on_a_gpu(provider: str) -> None:
    batch = np.random.default_rng(0).random((70, 3, 112, 112), np.float32)
    try:
        purifier = Purifier(providers=[provider])
    except ProviderError as error:
        pytest.skip(str(error))
    expected = Purifier().purify_canonical(batch).images
    np.testing.assert_allclose(purifier.purify_canonical(batch).images, expected, atol=2 / 255)


def test_a_model_that_ort_refuses() -> None:
    with pytest.raises(ModelContractError, match="refuses"):
        Session(b"not a model")


def test_a_run_that_fails(content: bytes) -> None:
    with pytest.raises(ModelOutputError, match="the model failed"):
        Session(content).run(["purified"], {"image": np.zeros((1, 3, 5, 5), np.float32)})


def test_without_onnxruntime(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"facepurify\[cpu\]"):
        Session(content)
