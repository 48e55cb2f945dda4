"""Converters of other people's recognizers, on random weights of their shapes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facepurify.bench.recognizers import Recognizer

FOLDER = Path(__file__).parents[2] / "benchmarks" / "strangers"
RNG = np.random.default_rng(0)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    script(name).main()


def test_steps_of_a_scale_and_plain_numbers_are_read(tmp_path: Path) -> None:
    weights = [
        {"name": "a", "shape": [2, 2], "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1}},
        {"name": "b", "shape": [2]},
    ]
    (tmp_path / "net-weights_manifest.json").write_text(json.dumps([{"weights": weights}]))
    plain = np.array([3, -4], np.float32)
    (tmp_path / "net.bin").write_bytes(bytes([0, 1, 2, 255]) + plain.tobytes())
    arrays = script("dlib_resnet").read(tmp_path / "net")
    np.testing.assert_array_equal(arrays["a"], [[-1, -0.5], [0, 126.5]])
    np.testing.assert_array_equal(arrays["b"], plain)


def test_a_shortcut_is_averaged_and_filled_with_zeros() -> None:
    torch = pytest.importorskip("torch")
    name = "64_down"
    arrays = {}
    for part, into in (("conv1", 32), ("conv2", 64)):
        arrays[f"conv{name}/{part}/conv/filters"] = np.zeros((3, 3, into, 64), np.float32)
        arrays[f"conv{name}/{part}/scale/weights"] = np.ones(64, np.float32)
        arrays[f"conv{name}/{part}/conv/bias"] = np.zeros(64, np.float32)
        arrays[f"conv{name}/{part}/scale/biases"] = np.full(64, 2.0, np.float32)
    x = torch.from_numpy(RNG.random((1, 32, 8, 8), dtype=np.float32))
    y = script("dlib_resnet").Block(arrays, name)(x)
    # The convolutions see three places of a side, the averages four: the last has these alone.
    assert y.shape == (1, 64, 4, 4)
    averages = x.reshape(1, 32, 4, 2, 4, 2).mean((3, 5))
    inside = torch.zeros(4, 4)
    inside[:3, :3] = 2
    torch.testing.assert_close(y[:, :32], averages + inside)
    torch.testing.assert_close(y[:, 32:], inside.expand(1, 32, 4, 4))


def test_dlibs_network_becomes_a_recognizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, data = [], b""

    def add(name: str, *shape: int) -> None:
        nonlocal data
        weights.append({"name": name, "shape": shape})
        data += (RNG.normal(size=shape) / np.prod(shape[:-1]) ** 0.5).astype("f4").tobytes()

    def convolution(name: str, size: int, into: int, out: int) -> None:
        add(f"{name}/conv/filters", size, size, into, out)
        for part in ("conv/bias", "scale/weights", "scale/biases"):
            add(f"{name}/{part}", out)

    convolution("conv32_down", 7, 3, 32)
    into = 32
    parts_of = {32: "1 2 3", 64: "down 1 2 3", 128: "down 1 2", 256: "down 1 2 down_out"}
    for width, parts in parts_of.items():
        for part in parts.split():
            name = f"conv{width}_{part}"
            convolution(f"{name}/conv1", 3, into, width)
            convolution(f"{name}/conv2", 3, width, width)
            into = width
    add("fc", 256, 128)
    (tmp_path / "face_recognition_model-weights_manifest.json").write_text(
        json.dumps([{"weights": weights}])
    )
    (tmp_path / "face_recognition_model.bin").write_bytes(data)
    run("dlib_resnet", monkeypatch, tmp_path, "-o", tmp_path / "dlib.onnx")
    recognizer = Recognizer.from_onnx(tmp_path / "dlib.onnx")  # torch and ONNX Runtime agree
    faces = RNG.random((3, 3, 112, 112), dtype=np.float32)
    embedded = recognizer.embed_numpy(faces)
    assert embedded.shape == (3, 128)
    # Above and beside dlib's chip the crop is not looked at.
    faces[:, :, :10], faces[..., :5] = 0, 0
    np.testing.assert_allclose(recognizer.embed_numpy(faces), embedded, atol=1e-5)


def test_facenet_takes_any_number_of_arcface_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {
        "w": RNG.normal(size=(1792, 3, 1, 1)).astype(np.float32),
        "bottleneck": RNG.normal(size=(1792, 512)).astype(np.float32) / 42,
        "flat": np.array([1, -1]),
        "row": np.array([1, 512]),
    }
    nodes = [
        helper.make_node("Conv", ["input:0", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "flat"], ["flattened"]),
        helper.make_node("MatMul", ["flattened", "bottleneck"], ["raw"]),
        helper.make_node("Reshape", ["raw", "row"], ["embeddings:0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "facenet",
        [helper.make_tensor_value_info("input:0", TensorProto.FLOAT, ["n", 3, 160, 160])],
        [helper.make_tensor_value_info("embeddings:0", TensorProto.FLOAT, [1, 512])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "converted.onnx")
    run("facenet", monkeypatch, tmp_path / "converted.onnx", "-o", tmp_path / "facenet.onnx")
    grey = np.full((3, 3, 112, 112), 1, np.float32)
    embedded = Recognizer.from_onnx(tmp_path / "facenet.onnx").embed_numpy(grey)
    expected = arrays["w"][:, :, 0, 0].sum(1) @ arrays["bottleneck"]  # white is all but 1
    np.testing.assert_allclose(embedded[2], expected / np.linalg.norm(expected), atol=1e-4)
