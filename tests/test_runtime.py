from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

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


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
def test_wrong_threads(content: bytes, threads: object) -> None:
    with pytest.raises(OptionError, match="threads >= 1"):
        Session(content, threads=threads)


@pytest.mark.parametrize("providers", [[], "CPUExecutionProvider", ()])
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
