from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from facepurify import Purifier, onnxfile
from facepurify.errors import ModelContractError, ModelError
from facepurify.onnxfile import ModelContract, read_constants, read_contract

Build = Callable[..., onnx.ModelProto]
FLOAT, INT64, DOUBLE = TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE
IMAGE = ["N", 3, 112, 112]
value_info = helper.make_tensor_value_info


def identity(**fields: object) -> onnx.NodeProto:
    return helper.make_node("Identity", ["image"], ["purified"], **fields)


def refused(model: onnx.ModelProto, match: str) -> None:
    with pytest.raises(ModelContractError, match=match):
        read_contract(model.SerializeToString())


def test_whole_contract(tiny_model: Path) -> None:
    assert read_contract(tiny_model.read_bytes()) == ModelContract(
        opset=13,
        outputs=("purified", "probability", "score"),
        masks=("expected", "fixed", "sampled", "threshold"),
        eigenfaces=8,
    )


def test_least_contract(build_model: Build) -> None:
    contract = read_contract(build_model([identity()]).SerializeToString())
    assert contract == ModelContract(13, ("purified",), (), None)


def test_threshold_of_the_score_in_the_metadata(tiny_model: Path, build_model: Build) -> None:
    model = onnx.load(tiny_model)
    helper.set_model_props(model, {"author": "someone", "score_threshold": "0.25"})
    assert read_contract(model.SerializeToString()).score_threshold == 0.25
    # Without a score there is nothing that it could be the threshold of.
    bare = build_model([identity()])
    helper.set_model_props(bare, {"score_threshold": "0.25"})
    assert read_contract(bare.SerializeToString()).score_threshold is None


@pytest.mark.parametrize("said", ["", "high", "0", "-0.1", "1.5", "nan", "inf", "1" * 9999])
def test_threshold_that_is_none(tiny_model: Path, said: str) -> None:
    model = onnx.load(tiny_model)
    helper.set_model_props(model, {"score_threshold": said})
    refused(model, "score_threshold")


def test_opset_of_the_spelled_out_default_domain(build_model: Build) -> None:
    opsets = [helper.make_opsetid("ai.onnx", 17), helper.make_opsetid("unused.domain", 1)]
    model = build_model([identity(domain="ai.onnx")], opset_imports=opsets)
    assert read_contract(model.SerializeToString()).opset == 17


def test_too_large(monkeypatch: pytest.MonkeyPatch, build_model: Build) -> None:
    content = build_model([identity()]).SerializeToString()
    monkeypatch.setattr(onnxfile, "MAX_BYTES", len(content))
    read_contract(content)
    with pytest.raises(ModelContractError, match="at most"):
        read_contract(content + b"\0")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello, world", b"\x89PNG\r\n\x1a\n", b"\xff" * 99]
)
def test_not_onnx(content: bytes) -> None:
    with pytest.raises(ModelContractError):
        read_contract(content)


def test_every_truncation_is_refused(tiny_model: Path) -> None:
    content = tiny_model.read_bytes()
    whole = read_contract(content)
    for length in range(len(content)):
        try:
            contract = read_contract(content[:length])
        except ModelContractError:
            continue
        # protobuf has no end mark: what is cut after the graph may still be whole
        assert contract == whole


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_altered_bytes_raise_our_error_or_nothing(tiny_model: Path, data: st.DataObject) -> None:
    content = bytearray(tiny_model.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ModelContractError):
        read_contract(bytes(content))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ModelContractError):
        read_contract(content)


def test_ort_format_polyglot(build_model: Build) -> None:
    model = build_model([identity()])
    # as the first field, a producer name: tag, length, then 2 bytes and "ORTM" at 4..8
    content = b"\x12\x06xxORTM" + model.SerializeToString()
    assert onnx.load_from_string(content).producer_name == "xxORTM"
    with pytest.raises(ModelContractError, match="own format"):
        read_contract(content)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x3a" + b"\xff" * 10 + b"\x01",  # a length of more than ten bytes
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of 2**64 - 1
        b"\x3b\x3c",  # a group
        b"\x38\x01",  # a graph that is a number
        b"\x00\x00",  # field number 0
    ],
)
def test_hostile_wire(bomb: bytes) -> None:
    with pytest.raises(ModelContractError):
        read_contract(bomb)


def test_deep_nesting(build_model: Build) -> None:
    graph = helper.make_graph([identity()], "g", [], [])
    for _ in range(12):
        graph = helper.make_graph([helper.make_node("If", [], [], then_branch=graph)], "g", [], [])
    refused(build_model([helper.make_node("If", [], [], then_branch=graph)]), "nested")


def test_too_many_fields(monkeypatch: pytest.MonkeyPatch, build_model: Build) -> None:
    content = build_model([identity()]).SerializeToString()
    monkeypatch.setattr(onnxfile, "_MAX_FIELDS", 10)
    with pytest.raises(ModelContractError, match="at most 10 fields"):
        read_contract(content)


def test_two_graphs(build_model: Build) -> None:
    content = build_model([identity()]).SerializeToString()
    with pytest.raises(ModelContractError, match="one graph, got 2"):
        read_contract(content + content)


def external(name: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def test_external_initializer(build_model: Build) -> None:
    refused(build_model([identity()], initializers=[external("w")]), "external data")


def test_external_location_without_the_flag(build_model: Build) -> None:
    tensor = external("w")
    tensor.ClearField("data_location")
    refused(build_model([identity()], initializers=[tensor]), "external data")


def test_external_attribute_in_a_subgraph(build_model: Build) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=external("w"))
    inner = helper.make_graph([constant], "inner", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    refused(build_model([identity(), node]), "external data")


def test_external_sparse_initializer(build_model: Build) -> None:
    model = build_model([identity()])
    model.graph.sparse_initializer.add().values.CopyFrom(external("w"))
    refused(model, "external data")


def test_tensors_of_strings(build_model: Build) -> None:
    strings = helper.make_tensor("w", TensorProto.STRING, [1], [b"x" * 99])
    refused(build_model([identity()], initializers=[strings]), "tensors of numbers")
    refused(build_model([step("Constant", to="s", value=strings), identity()]), "of numbers")
    for fields in ({"value_string": "x"}, {"value_strings": ["x", "y"]}):
        refused(build_model([step("Constant", to="s", **fields), identity()]), "of numbers")
    for kind in (0, 27, (1 << 32) + TensorProto.STRING):  # protobuf keeps the lower 32 bits
        with pytest.raises(ModelContractError, match="of numbers"):
            onnxfile._Reader()._tensor(memoryview(onnxfile._field(2, kind)), 0)


def test_custom_domain(build_model: Build) -> None:
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("evil.ops", 1)]
    refused(build_model([identity(domain="evil.ops")], opset_imports=opsets), "evil.ops")


@pytest.mark.parametrize("attribute", ["graph", "graphs"])
def test_custom_domain_in_a_subgraph(build_model: Build, attribute: str) -> None:
    inner = helper.make_graph([identity(domain="com.microsoft")], "inner", [], [])
    value = inner if attribute == "graph" else [inner]
    node = helper.make_node("If", [], ["y"], then_branch=value)
    refused(build_model([identity(), node]), "com.microsoft")


@pytest.mark.parametrize(("function", "inside"), [("mine", ""), ("", "mine")])
def test_custom_domain_of_a_function(build_model: Build, function: str, inside: str) -> None:
    node = helper.make_node("Identity", ["a"], ["b"], domain=inside)
    opsets = [helper.make_opsetid("", 13)]
    made = helper.make_function(function, "f", ["a"], ["b"], [node], opsets)
    refused(build_model([identity()], functions=[made]), "mine")


@pytest.mark.parametrize("operator", ["Loop", "Scan"])
def test_loops(build_model: Build, operator: str) -> None:
    refused(build_model([identity(), helper.make_node(operator, [], [])]), operator)
    inner = helper.make_graph([helper.make_node(operator, [], [])], "inner", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner)
    refused(build_model([identity(), node]), f"without loops, got {operator}")


def test_no_default_opset(build_model: Build) -> None:
    refused(build_model([identity()], opset_imports=[helper.make_opsetid("other", 1)]), "import")


def test_training_info(build_model: Build) -> None:
    model = build_model([identity()])
    model.training_info.add()
    refused(model, "inference")


@pytest.mark.parametrize(
    ("declared", "match"),
    [
        (value_info("input", FLOAT, IMAGE), "input `image`.*the inputs are: input"),
        (value_info("image", DOUBLE, IMAGE), "element type 11"),
        (value_info("image", FLOAT, None), "no declared shape"),
        (value_info("image", FLOAT, ["N", 3, 112]), r"got float32 \[N, 3, 112\]"),
        (value_info("image", FLOAT, ["N", 3, 128, 128]), "128, 128"),
        (value_info("image", FLOAT, ["N", 3, "H", "W"]), r"\[N, 3, N, N\]"),
        (value_info("image", FLOAT, [1, 3, 112, 112]), r"\[1, 3, 112, 112\]"),
    ],
)
def test_other_input(build_model: Build, declared: onnx.ValueInfoProto, match: str) -> None:
    refused(build_model([identity()], inputs=[declared]), match)


@pytest.mark.parametrize(
    "declared",
    [
        value_info("output", FLOAT, IMAGE),
        value_info("purified", INT64, IMAGE),
        value_info("purified", FLOAT, ["N", 1, 112, 112]),
    ],
)
def test_other_output(build_model: Build, declared: onnx.ValueInfoProto) -> None:
    refused(build_model([identity()], outputs=[declared]), "purified")


def test_sequence_typed_input(build_model: Build) -> None:
    declared = helper.make_tensor_sequence_value_info("image", FLOAT, IMAGE)
    refused(build_model([identity()], inputs=[declared]), "`image`")


def test_required_second_input(build_model: Build) -> None:
    inputs = [value_info("image", FLOAT, IMAGE), value_info("strength", FLOAT, [1])]
    refused(build_model([identity()], inputs=inputs), "strength")
    backed = numpy_helper.from_array(np.ones(1, np.float32), "strength")
    model = build_model([identity()], inputs=inputs, initializers=[backed])
    assert read_contract(model.SerializeToString()).masks == ()


def test_image_that_an_initializer_backs(build_model: Build) -> None:
    backed = numpy_helper.from_array(np.ones((1, 3, 112, 112), np.float32), "image")
    refused(build_model([identity()], initializers=[backed]), "an initializer for it")


def test_input_declared_twice(build_model: Build) -> None:
    image = value_info("image", FLOAT, IMAGE)
    refused(build_model([identity()], inputs=[image, image]), "declared twice")


@pytest.mark.parametrize(
    ("name", "element", "shape"),
    [
        ("mask_mode", FLOAT, [1]),
        ("mask_mode", INT64, [2]),
        ("mask_uniform", FLOAT, [1, 7]),
        ("mask_uniform", FLOAT, ["N", 8]),
        ("probability", FLOAT, ["N"]),
        ("score", FLOAT, ["N", 1]),
        ("score", INT64, ["N"]),
    ],
)
def test_optional_parts_of_another_type(
    build_antibody_model: Build, name: str, element: int, shape: list[object]
) -> None:
    model = build_antibody_model()
    for declared in (*model.graph.input, *model.graph.output):
        if declared.name == name:
            declared.CopyFrom(value_info(name, element, shape))
    refused(model, name)


def weights(shape: tuple[int, ...], *, dims: list[int] | None = None) -> onnx.TensorProto:
    """An initializer ``w`` of zeros, which may declare other dimensions than it has."""
    tensor = numpy_helper.from_array(np.zeros(shape, np.float32), "w")
    if dims is not None:
        del tensor.dims[:]
        tensor.dims.extend(dims)
    return tensor


def integers(*values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), "n")


def step(operator: str, *inputs: str, to: str = "purified", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, [*inputs], [to], **attributes)


def call(name: str) -> onnx.FunctionProto:
    """A function F that calls a function, or itself."""
    opsets = [helper.make_opsetid("", 13)]
    return helper.make_function("", "F", ["a"], ["b"], [step(name, "a", to="b")], opsets)


def opset(version: int) -> dict[str, object]:
    return {"opset_imports": [helper.make_opsetid("", version)]}


# Files that keep to the letter of the contract and are rotten inside.
ROTTEN: dict[str, tuple[list[onnx.NodeProto], dict[str, object]]] = {
    "an operator that is none": ([step("NoSuchOperator", "image")], {}),
    "an operator without a name": ([step("", "image")], {}),
    "a cycle": (
        [step("Add", "image", "y", to="x"), step("Identity", "x", to="y"), identity()],
        {},
    ),
    "a function that calls itself": ([step("F", "image")], {"functions": [call("F")]}),
    "two producers": ([identity(), identity()], {}),
    "no producer": ([step("Identity", "nothing")], {}),
    "opset 0": ([identity()], opset(0)),
    "opset 999": ([identity()], opset(999)),
    "opset -1": ([identity()], opset(-1)),
    "opset 2 ** 62": ([identity()], opset(2**62)),
    "a negative dimension": (
        [step("Add", "image", "w")],
        {"initializers": [weights((4,), dims=[-1])]},
    ),
    "dimensions that overflow": (
        [step("Add", "image", "w")],
        {"initializers": [weights((4,), dims=[2**32, 2**32])]},
    ),
    "more dimensions than data": (
        [step("Add", "image", "w")],
        {"initializers": [weights((112,), dims=[2**20, 1, 1, 112])]},
    ),
    "another element type": ([step("Not", "image")], {}),
    "a stride of nothing": (
        [step("Conv", "image", "w", strides=[0, 0])],
        {"initializers": [weights((3, 3, 1, 1))]},
    ),
    "a kernel beyond its weights": (
        [step("Conv", "image", "w", kernel_shape=[2**40, 1], pads=[2**40] * 4)],
        {"initializers": [weights((3, 3, 1, 1))]},
    ),
    "an index out of bounds": ([step("Gather", "image", "n")], {"initializers": [integers(2**40)]}),
    "a tensor of 2 ** 62 numbers": (
        [step("ConstantOfShape", "n", to="m"), step("Add", "image", "m")],
        {"initializers": [integers(2**62)]},
    ),
    "an image repeated 2 ** 40 times": (
        [step("Tile", "image", "n")],
        {"initializers": [integers(2**40, 1, 1, 1)]},
    ),
    "another shape than it says": (
        [step("Tile", "image", "n")],
        {"initializers": [integers(2, 1, 1, 1)]},
    ),
    "not a number": ([step("Log", "image", to="x"), step("Mul", "x", "image")], {}),
}


@pytest.mark.parametrize("name", ROTTEN)
def test_rotten_models_are_our_error(tmp_path: Path, build_model: Build, name: str) -> None:
    nodes, fields = ROTTEN[name]
    path = tmp_path / "rotten.onnx"
    path.write_bytes(build_model(nodes, **fields).SerializeToString())
    with pytest.raises(ModelError):
        Purifier(path, threads=1).purify(np.zeros((112, 112, 3), np.uint8))


def test_ort_refusal_is_our_error(tmp_path: Path, build_model: Build) -> None:
    path = tmp_path / "broken.onnx"
    node = helper.make_node("NoSuchOperator", ["image"], ["purified"])
    path.write_bytes(build_model([node]).SerializeToString())
    with pytest.raises(ModelError, match="NoSuchOperator"):
        Purifier(path)


def test_constants_are_those_of_the_file() -> None:
    content = (Path(__file__).parents[1] / "models" / "pin.onnx").read_bytes()
    constants = read_constants(content)
    wanted = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(content).graph.initializer
    }
    assert constants.keys() == wanted.keys()
    for name, array in constants.items():
        assert array.dtype == wanted[name].dtype
        np.testing.assert_array_equal(array, wanted[name])


def test_a_constant_that_does_not_fill_its_shape(build_model: Build) -> None:
    tensor = numpy_helper.from_array(np.ones((3, 2), np.float32), "spare")
    tensor.dims[0] = 4
    content = build_model([identity()], initializers=[tensor]).SerializeToString()
    with pytest.raises(ModelContractError, match="expected spare to fill its shape"):
        read_constants(content)


@pytest.mark.parametrize(
    "dims",
    [[1] * 100, [1 << 62] * 50_000, [0, 1 << 62], [0, -1], [-1], [0] + [1 << 26] * 3],
    ids=["rank", "endless", "overflow", "negative of none", "negative", "product"],
)
def test_a_constant_of_a_shape_that_none_has(build_model: Build, dims: list[int]) -> None:
    tensor = TensorProto(name="spare", data_type=FLOAT, dims=dims, raw_data=b"")
    model = build_model([identity()], initializers=[tensor])
    with pytest.raises(ModelContractError, match="expected spare to have at most 8 dimensions"):
        read_constants(model.SerializeToString())


def test_a_constant_of_nothing(build_model: Build) -> None:
    tensor = TensorProto(name="none", data_type=FLOAT, dims=[0, 7], raw_data=b"")
    content = build_model([identity()], initializers=[tensor]).SerializeToString()
    assert read_constants(content)["none"].shape == (0, 7)


def test_what_can_be_searched(build_antibody_model: Build) -> None:
    model = build_antibody_model()
    for name, source, width in (("coefficients", "logits", 8), ("code", "colour", 3)):
        model.graph.node.append(helper.make_node("Identity", [source], [name]))
        model.graph.output.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
        )
    contract = read_contract(model.SerializeToString())
    assert contract.searchable
    assert contract.masks == ("threshold", "expected", "fixed", "sampled")
    model.graph.output[3].type.tensor_type.shape.dim[1].dim_value = 7
    refused(model, "output `coefficients` to be")
