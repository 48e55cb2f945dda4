"""Stand-ins for the benchmark: small recognizers, and people that they can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facepurify.bench.pairs import Pairs

DIMENSION = 16
SIDE = 112


def recognizer_model(seed: int, side: int = SIDE) -> onnx.ModelProto:
    """A random projection of the picture, averaged over squares of 8 pixels, behind one ReLU."""
    rng = np.random.default_rng(seed)
    cells = (side // 8) ** 2
    weights = {
        "filters": rng.normal(size=(4, 3, 3, 3)) / 5,
        "projection": rng.normal(size=(4 * cells, DIMENSION)) / np.sqrt(cells),
    }
    nodes = [
        helper.make_node("AveragePool", ["input"], ["small"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["small", "filters"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("Flatten", ["active"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "projection"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recognizer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", DIMENSION])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, ir_version=8, opset_imports=opset)


@pytest.fixture(scope="session")
def recognizer_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small recognizers of different weights."""
    folder = tmp_path_factory.mktemp("recognizers")
    paths = [folder / "one.onnx", folder / "two.onnx"]
    for seed, path in enumerate(paths):
        path.write_bytes(recognizer_model(seed).SerializeToString())
    return paths


@pytest.fixture(scope="session")
def people_pairs() -> Pairs:
    """Ten made-up people, each a pattern of large squares, in two noisy pictures."""
    rng = np.random.default_rng(0)
    people = rng.integers(40, 216, (10, 7, 7, 3)).repeat(16, axis=1).repeat(16, axis=2)
    pictures = people.repeat(2, axis=0) + rng.normal(0, 25, (20, SIDE, SIDE, 3))
    # Light that differs from picture to picture keeps genuine scores apart from 1.
    pictures += rng.normal(0, 20, (20, 7, 7, 3)).repeat(16, axis=1).repeat(16, axis=2)
    images = np.clip(pictures, 0, 255).astype(np.uint8)
    genuine = [(2 * person, 2 * person + 1) for person in range(10)]
    impostor = [(2 * a, 2 * b + 1) for a in range(10) for b in range(10) if a != b]
    return Pairs.from_arrays(images, genuine, impostor, name="people")
