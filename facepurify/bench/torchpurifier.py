"""A purifier's ONNX graph as a torch module, so that an attacker has its gradient."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx2torch
import onnxruntime
from onnx import helper, numpy_helper
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["TorchPurifier"]

REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")


class TorchPurifier(nn.Module):
    """An ONNX purifier's face, computed by torch with the expected mask; frozen.

    Args:
        content: bytes of a file of the contract.

    Raises:
        NotImplementedError: onnx2torch lacks an operator; the message names it.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        model = _folded(onnx.load_model_from_string(content))
        self._index = [output.name for output in model.graph.output].index("purified")
        self._net = onnx2torch.convert(model).eval().requires_grad_(False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Purifies RGB images [N, 3, 112, 112] in [0, 1]."""
        outputs = self._net(x)
        purified: Tensor = outputs[self._index] if isinstance(outputs, tuple | list) else outputs
        return purified


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the mask fixed to the expected one, and constants folded by ONNX Runtime.

    So what is computed from weights alone (casts and scales of compressed ones, identities)
    becomes plain weights: onnx2torch demands that in places, and it is faster.
    """
    required = [value for value in model.graph.input if not value.name.startswith("mask_")]
    del model.graph.input[:]
    model.graph.input.extend(required)
    for tensor in model.graph.initializer:
        if tensor.name == "mask_mode":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "mask_mode"))
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        folded = onnx.load(options.optimized_model_filepath)
    return _as_opset_17(folded)


def _as_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrites the reductions of newer opsets, the rest of which onnx2torch reads as 17's.

    Since 18 a reduction's axes are an input. What else is newer is mostly types; where it is
    more, the conversion fails or the parity check does.
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
