"""How much memory a stranger's model may ask for, worked out before it runs.

A file of a few hundred bytes can ask for a tensor of gigabytes (ConstantOfShape, Tile, Resize …).
So every tensor that its nodes make is added up, for the batch that is to be run, from the shapes
that ONNX Runtime infers without running anything. The order in which nodes run does not matter to
the sum. A few operators work on a copy or two of what goes through them (Softmax along another
axis than the last, TopK), which it leaves out, so a run that is made to hold everything at once may
take up to about three times as much.
"""

from __future__ import annotations

import math
import re

from .errors import ModelContractError
from .extras import import_onnxruntime
from .onnxfile import probe_of

__all__ = ["MAX_DEMAND", "demand_of", "largest_batch"]

MAX_DEMAND = 2 << 30
"""Most memory that the tensors of one run of a stranger's model may add up to, in bytes."""

_FOLDED = 4096  # bytes of a constant that may be worked out while shapes are inferred
_FOLDS = (1, 27)  # the first ONNX Runtime that minds such a limit
_PADDED = 16  # convolutions may round their channels up to whole vectors
# Bytes of an element. What is not here is refused: a string, say, may be of any length.
_SIZES = {
    f"tensor({element})": size
    for size, elements in (
        (4, "bool int8 uint8 int16 uint16 int32 uint32 float16 bfloat16 float"),
        (8, "int64 uint64 double"),
    )
    for element in elements.split()
}


def largest_batch(content: bytes, most: int) -> int:
    """Return how many images a model may run on at a time.

    Args:
        content: A model that keeps the contract of :func:`facepurify.onnxfile.read_contract`.
        most: No more than these, a power of two.

    Returns:
        ``most``, or the largest power of two below that stays within ``MAX_DEMAND``.

    Raises:
        ModelContractError: One image is too many, or there are shapes that only data tell.
        MissingExtraError: ONNX Runtime is not installed.
    """
    batch = most
    while (demand := demand_of(content, batch)) > MAX_DEMAND:
        if batch == 1:
            raise ModelContractError(
                f"expected a model that needs at most {MAX_DEMAND} bytes of memory for an image, "
                f"got one that needs {demand}"
            )
        batch //= 2
    return batch


def demand_of(content: bytes, batch: int) -> int:
    """Add up the memory of all tensors that a model makes, in bytes.

    A convolution also counts a copy of its input for each place of its kernel, which some
    algorithms make for one image at a time, and channels rounded up to sixteen. Whatever is
    smaller than a float counts as one.

    Args:
        content: As for :func:`largest_batch`.
        batch: N, the number of images.

    Raises:
        ModelContractError: ONNX Runtime refuses the model, a shape does not follow from N, or a
            tensor is of something else than numbers.
        MissingExtraError: ONNX Runtime is not installed.
    """
    ort = import_onnxruntime()
    probe = probe_of(content, batch)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    # Shapes may be worked out in the graph (Shape, Gather, Concat, Reshape), which takes folding.
    # An older ONNX Runtime would fold without a limit, and then such models are refused.
    version = tuple(map(int, re.findall(r"\d+", ort.__version__)[:2]))
    folds = version >= _FOLDS
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC if folds else levels.ORT_DISABLE_ALL
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(_FOLDED)
    )
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            probe.content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime raises classes of its own, without a base
        raise ModelContractError(f"ONNX Runtime refuses the model: {error}") from error
    shown = {output.name: output for output in session.get_outputs()}
    shapes: dict[str, tuple[int, ...]] = {"image": (batch, 3, 112, 112)}
    total = 0
    for name in probe.tensors:
        shape, rank = shown[name].shape, shown[f"{name} of shape"].shape
        if (kind := shown[name].type) not in _SIZES:
            raise ModelContractError(f"expected tensors of numbers, got {name!r}, a {kind}")
        # A tensor of unknown rank looks like a scalar; what Shape makes of it tells them apart.
        if rank != [len(shape)] or not all(isinstance(size, int) for size in shape):
            raise ModelContractError(
                f"expected shapes that follow from the number of images alone, got a tensor "
                f"{name!r} without; export with static shapes"
                + ("" if folds else ", or install ONNX Runtime 1.27 or newer")
            )
        if min(shape, default=0) < 0:  # of a kernel larger than its image; it would be deducted
            raise ModelContractError(f"expected sizes of 0 or more, got a tensor {name!r} {shape}")
        shapes[name] = tuple(shape)
        total += math.prod(shape) * _SIZES[kind]
    for operator, image, kernel, made in probe.convolutions:
        places = shapes[image] if operator == "ConvTranspose" else shapes[made]
        if min(len(places), len(shapes[kernel])) > 2:
            total += 4 * math.prod(shapes[kernel][1:]) * (math.prod(places[2:]) + _PADDED)
            total += 4 * places[0] * (-shapes[made][1] % _PADDED) * math.prod(shapes[made][2:])
    return total
