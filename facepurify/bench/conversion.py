"""From an ONNX graph to a torch module with gradients, by onnx2torch and what it lacks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx2torch
import onnxruntime
from onnx import helper, numpy_helper
from onnx2torch.node_converters.reshape import OnnxReshape
from onnx2torch.node_converters.slice import OnnxSlice
from torch import Tensor, fx, nn
from typing_extensions import override

__all__ = ["to_torch"]

NEGLIGIBLE = 1e-20
REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")


def to_torch(model: onnx.ModelProto) -> nn.Module:
    """Converts a graph to a module in evaluation mode, frozen.

    Weights that are too small to count become zero. An operator may be converted wrongly without
    a sign: compare the outputs.

    Args:
        model: in one file, and one that ONNX Runtime can load; not changed.

    Raises:
        NotImplementedError: onnx2torch lacks an operator; the message names it.
    """
    net: fx.GraphModule = onnx2torch.convert(_as_opset_17(_folded(model)))
    for node in net.graph.nodes:
        if node.op != "call_module":
            continue
        module = net.get_submodule(node.target)
        if isinstance(module, OnnxSlice):
            setattr(net, node.target, _Slice())
        elif isinstance(module, OnnxReshape) and node.args[1].op == "get_attr":
            setattr(net, node.target, _Reshape(net.get_buffer(node.args[1].target).tolist()))
    net.eval().requires_grad_(False)
    for weights in net.parameters():
        # Products too small for a normal float take a hundred times as long: with the weights of
        # channels that training had given up, the first convolution was half of all the time.
        weights[weights.abs() < NEGLIGIBLE] = 0
    return net


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Folds constants by ONNX Runtime, which at this level keeps to standard operators.

    What is computed from weights alone (casts and scales of compressed ones, identities) becomes
    plain weights: onnx2torch demands that in places, and it is faster.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(options.optimized_model_filepath)


def _as_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrites the reductions of newer opsets, and has onnx2torch read the rest as 17's.

    Since 18 a reduction's axes are an input. What else is newer is mostly types.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in REDUCTIONS and len(node.input) == 2:
            axes = numpy_helper.to_array(constants[node.input.pop()])
            node.attribute.append(helper.make_attribute("axes", axes.tolist()))
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = min(opset.version, 17)
    return model


class _Reshape(nn.Module):
    """ONNX's Reshape to a shape that the graph states; onnx2torch's cannot be exported again."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self._shape = tuple(shape)

    @override
    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        # A zero stands for the input's own side.
        return x.reshape([side or x.shape[axis] for axis, side in enumerate(self._shape)])


class _Slice(nn.Module):
    """ONNX's Slice by one axis after another; onnx2torch's indexes in a way that torch gives up."""

    @override
    def forward(
        self,
        x: Tensor,
        starts: Tensor,
        ends: Tensor,
        axes: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Tensor:
        firsts = starts.tolist()
        strides = [1] * len(firsts) if steps is None else steps.tolist()
        dims = range(len(firsts)) if axes is None else axes.tolist()
        for start, end, dim, step in zip(firsts, ends.tolist(), dims, strides, strict=True):
            kept = range(*slice(start, end, step).indices(x.shape[dim]))
            if step == 1:
                x = x.narrow(dim, kept.start, len(kept))
            else:
                x = x.index_select(dim, starts.new_tensor(kept))
        return x
