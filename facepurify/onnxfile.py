"""What an ONNX file declares, read from its bytes without running it or importing ``onnx``.

A file from a stranger is hostile input: this reads only the protobuf wire format, with a cap
on its size, its fields and its nesting, and refuses whatever a purifier has no need of.
Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ModelContractError

__all__ = [
    "MAX_BYTES",
    "SCORE_THRESHOLD",
    "ModelContract",
    "Probe",
    "TensorType",
    "probe_of",
    "read_constants",
    "read_contract",
]

MAX_BYTES = 64 << 20
"""Largest model file that is read, in bytes."""
SCORE_THRESHOLD = "score_threshold"
"""Key of the file's metadata under which it says from which score an image is suspicious."""

_MAX_FIELDS = 1_000_000
_MAX_DEPTH = 32
_MAX_RANK = 8

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT, _INT64, _STRING = 1, 7, 8  # TensorProto.DataType
_NUMBERS = frozenset(range(1, 27)) - {_STRING}
_DTYPES = {_FLOAT: "<f4", _INT64: "<i8", 10: "<f2"}  # those that ``read_constants`` reads
_ELEMENT_NAMES = {_FLOAT: "float32", _INT64: "int64"}
_DEFAULT_DOMAINS = (b"", b"ai.onnx")
_ENDLESS = (b"Loop", b"Scan")  # they repeat as often as the file says
_STRINGS = (b"value_string", b"value_strings")  # attributes that become a tensor
_IMAGE_SHAPE = (3, 112, 112)
CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "ConvTranspose", "QLinearConv"})
"""Operators that may unfold their input: a copy of it for each place of the kernel."""
# What images are purified with, as far as its memory follows from the shapes of what goes in and
# comes out (CONVOLUTIONS: and of the kernel). Not here: what holds graphs (If), what is random,
# what works in steps that its shapes do not show (Einsum, LSTM, Attention, DFT).
_OPERATORS = CONVOLUTIONS | frozenset(
    """
    Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape
    Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf
    Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
    HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu
    Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QLinearMatMul
    QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round
    ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905 (a column of one name a line is no easier to read)
)


@dataclass(frozen=True)
class TensorType:
    """Declared type of a graph input or output.

    Attributes:
        element: TensorProto.DataType, 1 for float32, 7 for int64.
        shape: The dimensions, None for a free one; None if no shape is declared.
    """

    element: int
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        element = _ELEMENT_NAMES.get(self.element, f"element type {self.element}")
        if self.shape is None:
            return f"{element} of no declared shape"
        return f"{element} [{', '.join('N' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class ModelContract:
    """What a purifier's file declares.

    Attributes:
        opset: Version of the default operator set.
        outputs: The outputs of the contract that it has, ``"purified"`` first, then
            ``"probability"`` and ``"score"``.
        masks: The masks it can run with, its default first: empty without an antibody, else
            ``"expected"`` and ``"fixed"``, and ``"sampled"`` and ``"threshold"`` where it takes
            ``mask_uniform``. The last is the default of one that can be searched.
        eigenfaces: K, the length of its antibody; None without one.
        searchable: Whether it gives what an antibody can be searched with, ``coefficients`` and
            ``code``.
        score_threshold: Score from which an image is suspicious, in (0, 1]; None where the file's
            metadata name none.
    """

    opset: int
    outputs: tuple[str, ...]
    masks: tuple[str, ...]
    eigenfaces: int | None
    searchable: bool = False
    score_threshold: float | None = None


def read_contract(content: bytes) -> ModelContract:
    """Check a file against the ONNX contract of a purifier.

    The contract: at most 64 MiB, one file, operators of the default domain only and of those only
    what networks on images are made of (no loops, branches, functions, sparse tensors, which
    unfold to any size, nor strings, which are of any length); an input ``image`` and an output
    ``purified``, float32 [N, 3, 112, 112]; optional outputs ``probability`` float32 [N, K] and
    ``score`` float32 [N]; optional inputs ``mask_mode`` int64 [1] and ``mask_uniform`` float32
    [1, K], and any others, only if an initializer backs them. One that can be searched gives
    ``coefficients`` float32 [N, K] and ``code`` float32 [N, C] too. Its metadata may say
    ``score_threshold``, a number in (0, 1].

    Args:
        content: The bytes of the file.

    Returns:
        What it declares.

    Raises:
        ModelContractError: Too large, truncated or not ONNX, external data, a custom domain or
            an operator that is not allowed (in the graph, a subgraph or a function), or other
            inputs and outputs.
    """
    if len(content) > MAX_BYTES:
        raise ModelContractError(
            f"expected a model of at most {MAX_BYTES} bytes, got {len(content)}"
        )
    # ONNX Runtime takes such bytes for its own format, whatever else they parse as.
    if content[4:8] == b"ORTM":
        raise ModelContractError("expected an ONNX file, got one in ONNX Runtime's own format")
    model = _Reader().model(memoryview(content))
    return _check(model)


@dataclass(frozen=True)
class Probe:
    """A model that shows all its tensors, to learn their shapes from a session of it.

    Attributes:
        content: The model, as bytes of ONNX. For each tensor ``x`` it has an output ``x`` and one
            ``x of shape``, which has as many numbers as ``x`` has dimensions.
        tensors: The tensors that nodes make, and the inputs and kernels of convolutions.
        convolutions: Each one's operator, input, kernel and output.
    """

    content: bytes
    tensors: tuple[str, ...]
    convolutions: tuple[tuple[str, str, str, str], ...]


def probe_of(content: bytes, batch: int) -> Probe:
    """Rewrite a model that keeps the contract so that it shows its tensors.

    Declared shapes are left out: they may lie.

    Args:
        content: The bytes of the file, which :func:`read_contract` has read.
        batch: N, in place of the free dimension of ``image``.
    """
    reader = _Reader()
    parts, graph, tensors, convolutions = [], [], ["image"], []
    for number, value in reader.fields(memoryview(content), 0):
        if number in (1, 8):  # version and operator sets
            parts.append(_field(number, value))
        elif number == 7:
            for inner, part in reader.fields(_message(value), 1):
                if inner == 1:
                    operator, inputs, outputs = reader.operands(_message(part))
                    tensors += outputs
                    if operator in CONVOLUTIONS:
                        place = 3 if operator == "QLinearConv" else 1
                        if len(inputs) <= place or not outputs:
                            raise ModelContractError(f"expected {operator} to have a kernel")
                        tensors += inputs[0], inputs[place]
                        convolutions.append((operator, inputs[0], inputs[place], outputs[0]))
                if inner in (1, 2, 5) or (inner == 11 and not reader.is_image(_message(part))):
                    graph.append(_field(inner, part))
    tensors = list(dict.fromkeys(tensors))
    dimensions = b"".join(_field(1, _field(1, size)) for size in (batch, *_IMAGE_SHAPE))
    kind = _field(1, _field(1, _FLOAT) + _field(2, dimensions))
    graph.append(_field(11, _field(1, b"image") + _field(2, kind)))
    for name in (name.encode() for name in tensors):
        ranks = name + b" of shape"
        graph.append(_field(1, _field(1, name) + _field(2, ranks) + _field(4, b"Shape")))
        graph += [_field(12, _field(1, shown)) for shown in (name, ranks) if shown != b"image"]
    parts.append(_field(7, b"".join(graph)))
    return Probe(b"".join(parts), tuple(tensors[1:]), tuple(convolutions))


@dataclass
class _Graph:
    """The declarations of the main graph, and what was met anywhere in the model."""

    opset: int | None = None
    operators: set[str] = field(default_factory=set)
    inputs: dict[str, TensorType] = field(default_factory=dict)
    outputs: dict[str, TensorType] = field(default_factory=dict)
    initializers: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)


def _check(model: _Graph) -> ModelContract:
    """Hold the declarations against the contract."""
    if model.opset is None:
        raise ModelContractError("expected an import of the default operator set, got none")
    if others := sorted(model.operators - _OPERATORS):
        raise ModelContractError(
            f"expected operators that networks on images are made of, got {', '.join(others)}; "
            "export with plain ones, whose memory follows from their shapes"
        )
    _expect(model.inputs, "input", "image", _FLOAT, (None, *_IMAGE_SHAPE))
    _expect(model.outputs, "output", "purified", _FLOAT, (None, *_IMAGE_SHAPE))
    required = sorted(model.inputs.keys() - model.initializers - {"image"})
    if "image" in model.initializers or required:
        raise ModelContractError(
            "expected `image` to be the one required input, got "
            + (f"also {', '.join(required)}" if required else "an initializer for it")
            + "; back every other input with an initializer"
        )
    outputs = ["purified"]
    eigenfaces: int | None = None
    if "probability" in model.outputs:
        shape = _expect(model.outputs, "output", "probability", _FLOAT, (None, None))
        eigenfaces = shape[1]
        outputs.append("probability")
    if "score" in model.outputs:
        _expect(model.outputs, "output", "score", _FLOAT, (None,))
        outputs.append("score")
    masks: tuple[str, ...] = ()
    if "mask_mode" in model.inputs:
        _expect(model.inputs, "input", "mask_mode", _INT64, (1,))
        masks = ("expected", "fixed")
        if "mask_uniform" in model.inputs:
            uniform = _expect(model.inputs, "input", "mask_uniform", _FLOAT, (1, eigenfaces))
            eigenfaces = uniform[1]
            masks += ("sampled", "threshold")
            if eigenfaces is None:
                raise ModelContractError("expected mask_uniform float32 [1, K] of a fixed K")
    searchable = "sampled" in masks and {"coefficients", "code"} <= model.outputs.keys()
    if searchable:
        _expect(model.outputs, "output", "coefficients", _FLOAT, (None, eigenfaces))
        _expect(model.outputs, "output", "code", _FLOAT, (None, None))
        masks = ("threshold", *masks[:-1])
    threshold = _threshold(model.metadata) if "score" in outputs else None
    return ModelContract(model.opset, tuple(outputs), masks, eigenfaces, searchable, threshold)


def _threshold(metadata: dict[str, str]) -> float | None:
    said = metadata.get(SCORE_THRESHOLD)
    if said is None:
        return None
    try:
        threshold = float(said)
    except ValueError:
        threshold = math.nan
    if not 0 < threshold <= 1:  # false for NaN too
        raise ModelContractError(
            f"expected {SCORE_THRESHOLD} in the metadata to be above 0 and at most 1, "
            f"got {said[:40]!r}"
        )
    return threshold


def read_constants(content: bytes) -> dict[str, NDArray[Any]]:
    """Read the numbers that a file holds, as numpy arrays over its bytes.

    Args:
        content: The bytes of a file that ``read_contract`` accepted.

    Returns:
        The initializers of the main graph by name: float32, float16 and int64, those whose
        values lie in one piece.

    Raises:
        ModelContractError: A tensor whose bytes do not fill its shape, or of a shape that none
            has.
    """
    reader = _Reader()
    data = memoryview(content)
    graph = next(_message(value) for number, value in reader.fields(data, 0) if number == 7)
    constants = {}
    for number, value in reader.fields(graph, 1):
        if number == 5:
            name, array = reader.array(_message(value), 2)
            if array is not None:
                constants[name] = array
    return constants


def _expect(
    declared: dict[str, TensorType],
    kind: str,
    name: str,
    element: int,
    shape: tuple[int | None, ...],
) -> tuple[int | None, ...]:
    """Return the declared shape of ``name``; None in ``shape`` accepts any dimension.

    The batch of an image must be free, since one session serves every batch size.
    """
    wanted = TensorType(element, shape)
    if name not in declared:
        have = ", ".join(sorted(declared)) or "none"
        raise ModelContractError(f"expected an {kind} `{name}`, {wanted}; the {kind}s are: {have}")
    got = declared[name]
    fits = (
        got.element == element
        and got.shape is not None
        and len(got.shape) == len(shape)
        and all(want is None or have == want for have, want in zip(got.shape, shape, strict=True))
        and (element != _FLOAT or shape[0] is not None or got.shape[0] is None)
    )
    if not fits or got.shape is None:
        raise ModelContractError(f"expected the {kind} `{name}` to be {wanted}, got {got}")
    return got.shape


class _Reader:
    """Walks one model; counts fields, so that no file costs more than its share of time."""

    def __init__(self) -> None:
        self._fields_left = _MAX_FIELDS
        self._operators: set[str] = set()

    def model(self, data: memoryview) -> _Graph:
        graphs = []
        result = _Graph(operators=self._operators)
        functions = False
        for number, value in self.fields(data, 0):
            if number == 7:
                graphs.append(_message(value))
            elif number == 8:
                domain, version = b"", 0
                for key, part in self.fields(_message(value), 1):
                    if key == 1:
                        domain = bytes(_message(part))
                    elif key == 2:
                        version = _integer(part)
                if domain in _DEFAULT_DOMAINS:
                    result.opset = version
            elif number == 14:
                pair = {key: _text(part) for key, part in self.fields(_message(value), 1)}
                result.metadata[pair.get(1, "")] = pair.get(2, "")
            elif number == 20:
                raise ModelContractError("expected a model for inference, got training info")
            elif number == 25:
                self._function(_message(value), 1)
                functions = True
        if functions:
            raise ModelContractError("expected a model without functions; inline them")
        # protobuf would merge several graphs into one; no exporter writes that.
        if len(graphs) != 1:
            raise ModelContractError(f"expected an ONNX model of one graph, got {len(graphs)}")
        self._graph(graphs[0], 1, result)
        return result

    def _graph(self, data: memoryview, depth: int, result: _Graph | None = None) -> None:
        """Walk a graph; note its declarations in ``result`` if it is the main one."""
        for number, value in self.fields(data, depth):
            if number == 1:
                self._node(_message(value), depth + 1)
            elif number == 5:
                name = self._tensor(_message(value), depth + 1)
                if result is not None:
                    result.initializers.add(name)
            elif number == 15:
                self._sparse(_message(value), depth + 1)
            elif number in (11, 12) and result is not None:
                name, kind = self._value_info(_message(value), depth + 1)
                declared = result.inputs if number == 11 else result.outputs
                if name in declared:
                    raise ModelContractError(f"expected one `{name}`, got it declared twice")
                declared[name] = kind

    def _function(self, data: memoryview, depth: int) -> None:
        for number, value in self.fields(data, depth):
            if number == 7:
                self._node(_message(value), depth + 1)
            elif number == 10:
                _check_domain(_message(value), "a function")
            elif number == 11:
                self._attribute(_message(value), depth + 1)

    def operands(self, data: memoryview) -> tuple[str, list[str], list[str]]:
        """Return the operator of a node, its inputs and those of its outputs that have a name."""
        operator, inputs, outputs = "", [], []
        for number, value in self.fields(data, 2):
            if number == 1:
                inputs.append(_text(value))
            elif number == 2 and value:
                outputs.append(_text(value))
            elif number == 4:
                operator = _text(value)
        return operator, inputs, outputs

    def is_image(self, data: memoryview) -> bool:
        """Tell whether a declared input is ``image``."""
        return self._value_info(data, 2)[0] == "image"

    def _node(self, data: memoryview, depth: int) -> None:
        for number, value in self.fields(data, depth):
            if number == 4:
                if bytes(_message(value)) in _ENDLESS:
                    raise ModelContractError(
                        f"expected a graph without loops, got {_text(value)}; unroll it"
                    )
                self._operators.add(_text(value))
            elif number == 5:
                self._attribute(_message(value), depth + 1)
            elif number == 7:
                _check_domain(_message(value), "an operator")

    def _attribute(self, data: memoryview, depth: int) -> None:
        for number, value in self.fields(data, depth):
            if number == 1 and bytes(_message(value)) in _STRINGS:
                raise ModelContractError("expected tensors of numbers, got one of strings")
            if number in (5, 10):
                self._tensor(_message(value), depth + 1)
            elif number in (6, 11) and not isinstance(value, int):
                self._graph(value, depth + 1)
            elif number in (22, 23):
                self._sparse(_message(value), depth + 1)

    def _sparse(self, data: memoryview, depth: int) -> None:
        """Refuse external data first, then what it is: ONNX Runtime makes it dense."""
        for number, value in self.fields(data, depth):
            if number in (1, 2):
                self._tensor(_message(value), depth + 1)
        raise ModelContractError("expected dense tensors, got a sparse one; save it as dense")

    def _tensor(self, data: memoryview, depth: int) -> str:
        """Refuse external data and strings; return the tensor's name."""
        name = ""
        for number, value in self.fields(data, depth):
            if number == 8:
                name = _text(value)
            elif number == 2 and _integer(value) not in _NUMBERS:
                raise ModelContractError("expected tensors of numbers, got one of strings")
            elif number == 13 or (number == 14 and value != 0):
                raise ModelContractError(
                    "expected a single file, got a tensor with external data; "
                    "save the model with its weights inside"
                )
        return name

    def array(self, data: memoryview, depth: int) -> tuple[str, NDArray[Any] | None]:
        """A tensor's name and values; None for another type or way of writing it."""
        name, dtype, raw = "", None, None
        shape: list[int] = []
        for number, value in self.fields(data, depth):
            if number == 1:
                shape += itertools.islice(_packed(value), _MAX_RANK + 1 - len(shape))
            elif number == 2:
                dtype = _DTYPES.get(_integer(value))
            elif number == 8:
                name = _text(value)
            elif number == 9:
                raw = _message(value)
        if dtype is None or raw is None:
            return name, None
        # A negative size reads as one of more than 2^63.
        if len(shape) > _MAX_RANK or math.prod(size or 1 for size in shape) > MAX_BYTES:
            raise ModelContractError(
                f"expected {name} to have at most {_MAX_RANK} dimensions and {MAX_BYTES} numbers, "
                f"got a shape that begins {shape}"
            )
        if len(raw) != math.prod(shape) * np.dtype(dtype).itemsize:
            raise ModelContractError(
                f"expected {name} to fill its shape {shape}, got {len(raw)} bytes"
            )
        return name, np.frombuffer(raw, dtype).reshape(shape)

    def _value_info(self, data: memoryview, depth: int) -> tuple[str, TensorType]:
        name, element, shape = "", 0, None
        for number, value in self.fields(data, depth):
            if number == 1:
                name = _text(value)
            elif number == 2:
                for kind, tensor in self.fields(_message(value), depth + 1):
                    if kind != 1:
                        continue
                    for key, part in self.fields(_message(tensor), depth + 2):
                        if key == 1:
                            element = _integer(part)
                        elif key == 2:
                            shape = self._shape(_message(part), depth + 3)
        return name, TensorType(element, shape)

    def _shape(self, data: memoryview, depth: int) -> tuple[int | None, ...]:
        shape: list[int | None] = []
        for number, value in self.fields(data, depth):
            if number == 1:
                size: int | None = None
                for key, part in self.fields(_message(value), depth + 1):
                    size = _integer(part) if key == 1 else None
                shape.append(size)
        return tuple(shape)

    def fields(self, data: memoryview, depth: int) -> Iterator[tuple[int, int | memoryview]]:
        """Yield (field number, value): an int for a varint, else the bytes of the value."""
        if depth > _MAX_DEPTH:
            raise ModelContractError(f"expected at most {_MAX_DEPTH} nested messages in a model")
        position = 0
        while position < len(data):
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ModelContractError(f"expected at most {_MAX_FIELDS} fields in a model")
            key, position = _varint(data, position)
            number, wire = key >> 3, key & 7
            if number == 0:
                raise ModelContractError("expected an ONNX file, got a field of number 0")
            if wire == _VARINT:
                value, position = _varint(data, position)
                yield number, value
                continue
            if wire == _BYTES:
                size, position = _varint(data, position)
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise ModelContractError(f"expected an ONNX file, got wire type {wire}")
            if size > len(data) - position:
                raise ModelContractError("expected a whole ONNX file, got a truncated one")
            yield number, data[position : position + size]
            position += size


def _field(number: int, value: int | bytes | memoryview) -> bytes:
    """Write one field: a varint for an int, else the bytes with their length."""
    if isinstance(value, int):
        return _number(number << 3 | _VARINT) + _number(value)
    return _number(number << 3 | _BYTES) + _number(len(value)) + bytes(value)


def _number(value: int) -> bytes:
    """Write a number of 0 or more in base 128, the lowest digits first."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read a base-128 number of at most ten bytes; return it and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ModelContractError("expected a whole ONNX file, got a truncated one")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ModelContractError("expected an ONNX file, got a number of more than ten bytes")


def _packed(value: int | memoryview) -> Iterator[int]:
    """Read a repeated number, which may be written one by one or in one piece."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield number


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ModelContractError("expected an ONNX file, got a number in place of a message")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ModelContractError("expected an ONNX file, got bytes in place of a number")
    return value


def _text(value: int | memoryview) -> str:
    try:
        return str(_message(value), "utf-8")
    except UnicodeDecodeError as error:
        raise ModelContractError("expected names in UTF-8 in the model") from error


def _check_domain(domain: memoryview, what: str) -> None:
    if bytes(domain) not in _DEFAULT_DOMAINS:
        raise ModelContractError(
            f"expected operators of the default domain only, got {what} of "
            f"{str(domain, 'utf-8', 'replace')!r}; export with standard operators"
        )
