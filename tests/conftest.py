"""Fixtures for every test: small models of the contract, real faces, the measuring data."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from facepurify import align
from facepurify.images import Array

settings.register_profile("any machine", deadline=None)  # a busy one is no failure
settings.load_profile("any machine")

EIGENFACES = 8
# Found by det_500m in insightface's bundled photo t1, rounded.
T1_LANDMARKS = np.array(
    [
        [[761.1, 400.1], [803.8, 399.8], [774.6, 429.0], [767.2, 444.4], [805.0, 443.5]],
        [[495.6, 321.6], [545.6, 335.6], [513.6, 361.8], [484.5, 368.0], [530.7, 380.2]],
        [[82.8, 328.1], [124.4, 302.6], [117.9, 335.1], [114.3, 369.7], [148.9, 347.7]],
        [[916.7, 118.8], [948.0, 115.6], [920.3, 150.9], [935.2, 169.9], [961.6, 166.1]],
        [[1149.3, 324.8], [1194.5, 319.8], [1170.6, 344.2], [1156.5, 366.9], [1197.2, 362.7]],
        [[285.4, 206.1], [318.3, 190.0], [302.7, 223.9], [311.3, 244.7], [339.7, 230.5]],
    ]
)
IMAGE = ["N", 3, 112, 112]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recognizers and real faces beside the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("needs ../shared, the recognizers and faces to measure with")
    return folder


def antibody_model(**changes: object) -> onnx.ModelProto:
    """Build a purifier with an antibody whose every output can be worked out by hand.

    probability = sigmoid(mean colour @ weights), a = mask of it by mask_mode,
    purified = 0.9 image + 0.1 mean(a), score = mean of the image.

    Args:
        **changes: ``inputs``, ``outputs``, ``nodes`` or ``initializers`` to use instead.
    """
    rng = np.random.default_rng(0)
    constants = {
        "weights": rng.normal(size=(3, EIGENFACES)).astype(np.float32),
        "zero": np.int64(0),
        "one": np.int64(1),
        "keep": np.float32(0.9),
        "share": np.float32(0.1),
        "shape": np.array([-1, 1, 1, 1], np.int64),
        "mask_mode": np.array([0], np.int64),
        "mask_uniform": np.full((1, EIGENFACES), 0.5, np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probability"]),
        helper.make_node("ReduceMean", ["probability"], ["middle"], axes=[1], keepdims=1),
        helper.make_node("Equal", ["mask_mode", "zero"], ["is_expected"]),
        helper.make_node("Equal", ["mask_mode", "one"], ["is_fixed"]),
        helper.make_node("Where", ["is_fixed", "middle", "mask_uniform"], ["bound"]),
        helper.make_node("Greater", ["probability", "bound"], ["above"]),
        helper.make_node("Cast", ["above"], ["hard"], to=TensorProto.FLOAT),
        helper.make_node("Where", ["is_expected", "probability", "hard"], ["mask"]),
        helper.make_node("ReduceMean", ["mask"], ["level"], axes=[1], keepdims=0),
        helper.make_node("Reshape", ["level", "shape"], ["level_of_image"]),
        helper.make_node("Mul", ["level_of_image", "share"], ["offset"]),
        helper.make_node("Mul", ["image", "keep"], ["dimmed"]),
        helper.make_node("Add", ["dimmed", "offset"], ["purified"]),
        helper.make_node("ReduceMean", ["image"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    parts = {
        "nodes": nodes,
        "inputs": [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE),
            helper.make_tensor_value_info("mask_mode", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("mask_uniform", TensorProto.FLOAT, [1, EIGENFACES]),
        ],
        "outputs": [
            helper.make_tensor_value_info("purified", TensorProto.FLOAT, IMAGE),
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", EIGENFACES]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        "initializers": [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    }
    return model_of(**{**parts, **changes})


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    initializers: list[onnx.TensorProto] | None = None,
    **fields: object,
) -> onnx.ModelProto:
    """Build a model of the contract's one input and output around some nodes."""
    graph = helper.make_graph(
        nodes,
        "purifier",
        inputs or [helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE)],
        outputs or [helper.make_tensor_value_info("purified", TensorProto.FLOAT, IMAGE)],
        initializers or [],
    )
    fields.setdefault("opset_imports", [helper.make_opsetid("", 13)])
    return helper.make_model(graph, ir_version=8, **fields)


@pytest.fixture(scope="session")
def build_model() -> Callable[..., onnx.ModelProto]:
    """``model_of``: a model of the contract around some nodes."""
    return model_of


@pytest.fixture(scope="session")
def build_antibody_model() -> Callable[..., onnx.ModelProto]:
    """``antibody_model``, with parts replaced."""
    return antibody_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of the whole contract: antibody, score, all three masks."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(antibody_model().SerializeToString())
    return path


@pytest.fixture(scope="session")
def invert_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of the least contract: purified = 1 - image, nothing else."""
    one = numpy_helper.from_array(np.float32(1), "one")
    node = helper.make_node("Sub", ["one", "image"], ["purified"])
    path = tmp_path_factory.mktemp("model") / "invert.onnx"
    path.write_bytes(model_of([node], initializers=[one]).SerializeToString())
    return path


@pytest.fixture(scope="session")
def photo() -> Array:
    """insightface's bundled photo of six people, uint8 BGR."""
    pytest.importorskip("insightface", reason="needs insightface for its bundled photo")
    file = importlib.resources.files("insightface") / "data" / "images" / "t1.jpg"
    return cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture(scope="session")
def landmarks() -> Array:
    """Float64 [6, 5, 2]: the landmarks of the six faces of ``photo``."""
    return T1_LANDMARKS.copy()


@pytest.fixture(scope="session")
def faces(photo: Array) -> list[Array]:
    """Six aligned crops of real faces, uint8 BGR 112x112x3."""
    return [align(photo, face) for face in T1_LANDMARKS]
