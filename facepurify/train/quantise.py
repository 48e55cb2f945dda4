"""Smaller weights for a finished purifier: half precision, or eight bits.

What is written is an ordinary file of the contract, of standard operators only.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from facepurify.errors import DataError, OptionError
from facepurify.files import atomic_path
from facepurify.onnxfile import SCORE_THRESHOLD, read_contract
from facepurify.train.faces import FaceSet, as_batch
from facepurify.weights import read_model

__all__ = ["WEIGHTS", "halve", "halve_all", "name_threshold", "quantise", "widened"]

WEIGHTS = ("float16", "int8")
"""``float16`` stores weights in half precision and computes as before; ``int8`` also stores and
computes convolutions in eight bits, a scale for each output channel."""

SMALLEST = 1024  # numbers in a tensor that is worth it
CALIBRATION = 512  # faces


def quantise(
    model: str | Path, weights: str, path: str | Path, faces: FaceSet | None = None
) -> None:
    """Writes a purifier with smaller weights.

    Args:
        model: as for ``Purifier``, one model.
        weights: one of ``WEIGHTS``.
        path: the ONNX file to write.
        faces: for ``int8``, whose training part sets the ranges; the held-out part is left to
            measure what it costs.

    Raises:
        OptionError: another value of ``weights``.
        DataError: ``int8`` without faces.
        ModelError: no such model, or a result that is none of the contract.
    """
    if weights not in WEIGHTS:
        raise OptionError(f"expected weights among {', '.join(WEIGHTS)}, got {weights!r}")
    file = read_model(model)
    graph = widened(onnx.load_from_string(file.content))
    if weights == "int8":
        if faces is None:
            raise DataError("expected faces to set the ranges of int8 by; give --data")
        graph = _computed_in_int8(graph, faces)
    halve_all(graph)
    threshold = (file.entry or file.contract).score_threshold
    if threshold is not None:
        name_threshold(graph, threshold)
    content = graph.SerializeToString(deterministic=True)
    read_contract(content)
    onnx.checker.check_model(graph, full_check=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def name_threshold(model: onnx.ModelProto, threshold: float) -> None:
    """Says in the model's metadata from which score an image is suspicious."""
    helper.set_model_props(model, {SCORE_THRESHOLD: repr(threshold)})


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights that are stored in half precision as plain float32 ones again."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        half = stored.get(node.input[0]) if node.op_type == "Cast" else None
        if half is not None and half.data_type == onnx.TensorProto.FLOAT16:
            wide = numpy_helper.to_array(half).astype(np.float32)
            half.CopyFrom(numpy_helper.from_array(wide, node.output[0]))
            model.graph.node.remove(node)
    return model


def halve(model: onnx.ModelProto, chosen: Callable[[onnx.TensorProto], bool]) -> None:
    """Stores weights in half precision, and casts them; a session does that when it loads.

    Args:
        model: changed in place.
        chosen: which float32 initializers.
    """
    used = {name for node in model.graph.node for name in node.input}
    nodes = []
    for tensor in model.graph.initializer:
        name = tensor.name
        if tensor.data_type != onnx.TensorProto.FLOAT or not chosen(tensor):
            continue
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        if name in used:
            nodes.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes += list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def halve_all(model: onnx.ModelProto) -> None:
    """Stores every weight in half precision that is worth it; in place."""
    defaults = {given.name for given in model.graph.input}
    halve(
        model,
        lambda tensor: (
            tensor.name not in defaults
            and len(tensor.dims) >= 2
            and math.prod(tensor.dims) >= SMALLEST
        ),
    )


def _computed_in_int8(model: onnx.ModelProto, faces: FaceSet) -> onnx.ModelProto:
    """Convolutions in eight bits, by ONNX Runtime's static quantisation."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    rng = np.random.default_rng(0)
    chosen = rng.permutation(faces.training)[:CALIBRATION]
    batches = (as_batch(images) for images in faces.batches(chosen, 16))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            batch = next(batches, None)
            return None if batch is None else {"image": batch}

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        onnx.save(model, given)
        quant_pre_process(given, given, skip_symbolic_shape=True)
        quantize_static(
            given,
            made,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(made)
