"""ONNX graphs as torch modules: what onnx2torch lacks, with the right gradients."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from facepurify.bench.conversion import to_torch


def model_of(nodes: list[onnx.NodeProto], opset: int, **constants: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def compressed(kind: type[np.generic], opset: int) -> onnx.ModelProto:
    """Weights that are cast and scaled in the graph, and the operators of a projection."""
    rng = np.random.default_rng(0)
    reduce = {"axes": [2, 3]} if opset < 18 else {}
    axes = ["axes"] if opset >= 18 else []
    nodes = [
        helper.make_node("Cast", ["small"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["weights"]),
        helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["c", "slope"], ["p"]),
        helper.make_node("Reshape", ["p", "flat"], ["f"]),
        helper.make_node("Gather", ["f", "zone"], ["g"], axis=1),
        helper.make_node("MatMul", ["g", "weights"], ["m"]),
        helper.make_node("ReduceMean", ["x", *axes], ["colour"], keepdims=0, **reduce),
        helper.make_node("Gemm", ["colour", "dense", "bias"], ["logits"], transB=1),
        helper.make_node("Sigmoid", ["logits"], ["mask"]),
        helper.make_node("Mul", ["m", "mask"], ["masked"]),
        helper.make_node("Identity", ["zero"], ["low"]),
        helper.make_node("Clip", ["masked", "low"], ["y"]),
    ]
    small = rng.integers(-127, 128, (20, 6)).astype(kind)
    return model_of(
        nodes,
        opset,
        small=small,
        scale=np.full((1, 6), 0.01, np.float32),
        kernel=rng.normal(size=(3, 3, 3, 3)).astype(np.float32),
        slope=np.full((3, 1, 1), 0.25, np.float32),
        flat=np.array([-1, 192], np.int64),
        zone=rng.permutation(192)[:20],
        dense=rng.normal(size=(6, 3)).astype(np.float32),
        bias=np.zeros(6, np.float32),
        zero=np.float32(-0.5),
        axes=np.array([2, 3], np.int64),
    )


def check(model: onnx.ModelProto) -> None:
    """Outputs agree with ONNX Runtime's, and gradients with differences of them."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    net = to_torch(model).double()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    expected = session.run(None, {"x": x.numpy().astype(np.float32)})[0]
    np.testing.assert_allclose(net(x).numpy(), expected, atol=1e-4)
    assert torch.autograd.gradcheck(net, x.requires_grad_())


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("kind", [np.int8, np.float16])
def test_projection_with_compressed_weights(kind: type[np.generic], opset: int) -> None:
    check(compressed(kind, opset))


@pytest.mark.parametrize(
    ("start", "end", "axis", "step"),
    [(1, 3, 1, 1), (-2, 2**62, 3, 1), (0, -1, 2, 1), (0, 8, -1, 3), (-1, -(2**62), 2, -2)],
)
def test_slices(start: int, end: int, axis: int, step: int) -> None:
    node = helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])
    values = {"start": start, "end": end, "axis": axis, "step": step}
    check(model_of([node], 13, **{key: np.array([v], np.int64) for key, v in values.items()}))


def test_an_operator_that_is_missing_is_named() -> None:
    node = helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=2)
    with pytest.raises(NotImplementedError, match="LpNormalization"):
        to_torch(model_of([node], 13))


def test_the_graph_is_left_alone() -> None:
    model = compressed(np.int8, 18)
    before = model.SerializeToString()
    net = to_torch(model)
    assert model.SerializeToString() == before
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_weights_too_small_to_count_are_zero() -> None:
    kernel = np.zeros((2, 3, 1, 1), np.float32)
    kernel[0, 0], kernel[1, 0], kernel[1, 1] = 0.5, 1e-40, 1e-25
    net = to_torch(model_of([helper.make_node("Conv", ["x", "kernel"], ["y"])], 17, kernel=kernel))
    (weights,) = net.parameters()
    assert weights.count_nonzero() == 1
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(net(x)[0, 0], x[0, 0] / 2)
