"""Models that ask for more memory than a purifier may need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from facepurify import Purifier, demand, stage
from facepurify.demand import MAX_DEMAND, demand_of, largest_batch
from facepurify.errors import MissingExtraError, ModelContractError, ModelError
from facepurify.onnxfile import probe_of, read_contract

Build = Callable[..., onnx.ModelProto]
IMAGE = 4 * 3 * 112 * 112  # bytes
GIGABYTES = 700_000_000  # floats


def node(operator: str, *inputs: str, to: str = "x", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, [*inputs], [to], **attributes)


def constant(name: str, *values: float, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def scalar(name: str, value: float, kind: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, kind), name)


def kernel(*shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), "w")


# What becomes of x does not matter: it is made, whoever uses it.
HUNGRY: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]] = {
    "ConstantOfShape": ([node("ConstantOfShape", "n")], [constant("n", GIGABYTES)]),
    "Expand": ([node("Expand", "one", "n")], [scalar("one", 1), constant("n", GIGABYTES)]),
    "Tile": ([node("Tile", "image", "n")], [constant("n", 50_000, 1, 1, 1)]),
    "Range": (
        [node("Range", "from", "to", "by")],
        [scalar("from", 0), scalar("to", 6e8), scalar("by", 1)],
    ),
    "Pad": ([node("Pad", "image", "n")], [constant("n", 0, 0, 9000, 9000, 0, 0, 9000, 9000)]),
    "Resize": ([node("Resize", "image", "", "", "n")], [constant("n", 1, 3, 20000, 20000)]),
    "OneHot": (
        [node("OneHot", "places", "depth", "values")],
        [constant("places", *range(1000)), constant("depth", 900_000), constant("values", 0, 1)],
    ),
    "EyeLike": (
        [node("ConstantOfShape", "n", to="e"), node("EyeLike", "e")],
        [constant("n", 30_000, 30_000)],
    ),
    "an outer product": (
        [node("Reshape", "image", "n", to="column"), node("Reshape", "image", "m", to="row"),
         node("MatMul", "column", "row")],
        [constant("n", -1, 1), constant("m", 1, -1)],
    ),
    "many of a size that is allowed": (
        [node("Tile", "image", "n", to=f"x{number}") for number in range(200)],
        [constant("n", 100, 1, 1, 1)],
    ),
    "a padded convolution": (
        [node("Conv", "image", "w", pads=[4000] * 4)],
        [kernel(1, 3, 1, 1)],
    ),
    "a convolution that unfolds its input": (
        [node("Reshape", "image", "n", to="r"), node("ConvTranspose", "r", "w", pads=[500, 500])],
        [constant("n", -1, 1, 37632), kernel(1, 4, 4000)],
    ),
    "a shape that is computed": (
        [
            node("Shape", "image", to="s"),
            node("Mul", "s", "n", to="t"),
            node("ConstantOfShape", "t"),
        ],
        [constant("n", 1000, 100, 1, 1)],
    ),
}  # fmt: skip


def hungry(build_model: Build, name: str) -> bytes:
    nodes, initializers = HUNGRY[name]
    purified = node("Identity", "image", to="purified")
    opsets = [helper.make_opsetid("", 18)]
    model = build_model([*nodes, purified], initializers=initializers, opset_imports=opsets)
    return model.SerializeToString()


@pytest.mark.parametrize("name", HUNGRY)
def test_gigabytes_are_refused(tmp_path: Path, build_model: Build, name: str) -> None:
    path = tmp_path / "hungry.onnx"
    path.write_bytes(hungry(build_model, name))
    read_contract(path.read_bytes())  # it keeps to the letter
    with pytest.raises(ModelContractError, match=f"at most {MAX_DEMAND} bytes of memory"):
        Purifier(path, threads=1)


@pytest.mark.parametrize(
    ("operator", "weights", "options"),
    [
        ("MaxPool", [], {"kernel_shape": [10**9, 1]}),
        ("AveragePool", [], {"kernel_shape": [1, 10**9]}),
        ("MaxPool", [], {"kernel_shape": [3, 3], "dilations": [10**9, 1]}),
        ("Conv", [kernel(1, 3, 200, 200)], {}),
        ("Pad", [constant("w", 0, 0, -500, 0, 0, 0, 0, 0)], {}),
    ],
    ids=["MaxPool", "AveragePool", "dilations", "Conv", "Pad"],
)
def test_a_negative_size_is_not_deducted(
    build_model: Build,
    operator: str,
    weights: list[onnx.TensorProto],
    options: dict[str, object],
) -> None:
    inputs = [each.name for each in weights]
    nodes = [
        node("Tile", "image", "n", to="x"),
        node(operator, "x", *inputs, to="y", **options),
        node("Identity", "image", to="purified"),
    ]
    opsets = [helper.make_opsetid("", 18)]
    initializers = [constant("n", 50_000, 1, 1, 1), *weights]
    model = build_model(nodes, initializers=initializers, opset_imports=opsets)
    with pytest.raises(ModelContractError, match=r"sizes of 0 or more|refuses the model"):
        demand_of(model.SerializeToString(), 2)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_refusing_takes_no_memory(tmp_path: Path, build_model: Build) -> None:
    for number, name in enumerate(HUNGRY):
        (tmp_path / f"{number}.onnx").write_bytes(hungry(build_model, name))
    code = (
        "import re, sys; from pathlib import Path; from facepurify import ModelError, Purifier\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', "
        "Path('/proc/self/status').read_text())[1])\n"
        "Purifier(threads=1)\n"
        "before = peak()\n"
        "for path in Path(sys.argv[1]).glob('*.onnx'):\n"
        "    try: Purifier(path, threads=1)\n"
        "    except ModelError: print('refused')\n"
        "print((peak() - before) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    *refused, megabytes = done.stdout.split()
    assert refused == ["refused"] * len(HUNGRY)
    assert int(megabytes) < 200


@pytest.mark.parametrize(
    "nodes",
    [
        [node("NonZero", "image")],
        [node("Unique", "image")],
        [node("Compress", "image", "n")],
        [node("If", "n", then_branch=helper.make_graph([], "g", [], []))],
        [node("Einsum", "image", equation="abcd->abcd")],
        [node("RandomNormal", shape=[2**31])],
    ],
)
def test_operators_that_are_not_allowed(build_model: Build, nodes: list[onnx.NodeProto]) -> None:
    model = build_model([*nodes, node("Identity", "image", to="purified")])
    with pytest.raises(ModelContractError, match=f"got {nodes[0].op_type}; export with plain"):
        read_contract(model.SerializeToString())


def test_sparse_tensors_are_refused(build_model: Build) -> None:
    values, places = constant("s", 1, kind=np.float32), constant("i", 7)
    model = build_model([node("Identity", "image", to="purified")])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2**31]))
    with pytest.raises(ModelContractError, match="dense"):
        read_contract(model.SerializeToString())


def test_functions_are_refused(build_model: Build) -> None:
    opsets = [helper.make_opsetid("", 13)]
    made = helper.make_function("", "F", ["a"], ["b"], [node("Relu", "a", to="b")], opsets)
    model = build_model([node("Identity", "image", to="purified")], functions=[made])
    with pytest.raises(ModelContractError, match="without functions"):
        read_contract(model.SerializeToString())


def test_strings_are_refused(build_model: Build) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["s"], to=TensorProto.STRING),
        node("Identity", "image", to="purified"),
    ]
    content = build_model(nodes).SerializeToString()
    with pytest.raises(ModelContractError, match=r"tensors of numbers, got 's', a tensor\(string"):
        demand_of(content, 1)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (TensorProto.BOOL, 4),
        (TensorProto.INT8, 4),
        (TensorProto.FLOAT16, 4),
        (TensorProto.BFLOAT16, 4),
        (TensorProto.INT32, 4),
        (TensorProto.UINT64, 8),
        (TensorProto.DOUBLE, 8),
    ],
)
def test_each_kind_of_number_has_its_size(build_model: Build, kind: int, size: int) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["c"], to=kind),
        node("Identity", "image", to="purified"),
    ]
    content = build_model(nodes).SerializeToString()
    assert demand_of(content, 1) == IMAGE // 4 * size + IMAGE


def test_a_convolution_of_a_constant(build_model: Build) -> None:
    nodes = [node("ConvTranspose", "x", "w", to="y"), node("Identity", "image", to="purified")]
    constants = [constant("x", *range(9), kind=np.float32), kernel(1, 1, 3, 3)]
    constants[0].dims[:] = [1, 1, 3, 3]
    content = build_model(nodes, initializers=constants).SerializeToString()
    assert demand_of(content, 1) > IMAGE + 4 * (9 + 9 + 25)


def test_shapes_that_only_data_tell(tmp_path: Path, build_model: Build) -> None:
    nodes = [
        node("ReduceMax", "image", to="m", keepdims=0),
        helper.make_node("Cast", ["m"], ["i"], to=TensorProto.INT64),
        node("Unsqueeze", "i", "n", to="u"),
        node("ConstantOfShape", "u"),
        node("Identity", "image", to="purified"),
    ]
    content = build_model(nodes, initializers=[constant("n", 0)]).SerializeToString()
    with pytest.raises(ModelContractError, match=r"follow from the number of images alone.*'x'"):
        demand_of(content, 1)


def test_an_unknown_rank_is_no_scalar(build_model: Build) -> None:
    # ONNX tells no shape of this operator's result before opset 16
    nodes = [
        helper.make_node("Cast", ["image"], ["c"], to=TensorProto.INT64),
        node("ReduceMax", "c", to="i", keepdims=0),
        node("GreaterOrEqual", "i", "n", to="g"),
        helper.make_node("Cast", ["g"], ["u"], to=TensorProto.INT64),
        node("ConstantOfShape", "u"),
        node("Identity", "image", to="purified"),
    ]
    content = build_model(nodes, initializers=[constant("n", 0)]).SerializeToString()
    with pytest.raises(ModelContractError, match="without"):
        demand_of(content, 1)


def test_demand_by_hand(build_model: Build) -> None:
    nodes = [
        node("Mul", "image", "image", to="square"),
        node("Shape", "square", to="s"),
        node("Conv", "square", "w", to="purified", pads=[1, 1, 1, 1]),
    ]
    content = build_model(nodes, initializers=[kernel(3, 3, 3, 3)]).SerializeToString()
    for batch in (1, 5):
        tensors = 2 * batch * IMAGE + 4 * 8 + 4 * 81  # the kernel counts too
        unfolded = 4 * 27 * (112 * 112 + 16)
        padded = 4 * batch * 13 * 112 * 112
        assert demand_of(content, batch) == tensors + unfolded + padded


def test_what_is_shipped_fits() -> None:
    for name in ("pin", "uddn"):
        content = Purifier(name)._stages[0]._session._content
        assert largest_batch(content, 64) == 64


def test_a_model_that_computes_its_shapes_is_taken(tmp_path: Path, build_model: Build) -> None:
    nodes = [
        node("Shape", "image", to="s"),
        node("Gather", "s", "zero", to="count"),
        node("Unsqueeze", "count", "places", to="one"),
        node("Concat", "one", "rest", to="t", axis=0),
        node("Reshape", "image", "t", to="flat"),
        node("Reshape", "flat", "s", to="purified"),
    ]
    constants = [constant("rest", -1), constant("places", 0), scalar("zero", 0, np.int64)]
    path = tmp_path / "computes.onnx"
    path.write_bytes(build_model(nodes, initializers=constants).SerializeToString())
    image = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 27):
        with pytest.raises(ModelContractError, match=r"install ONNX Runtime 1\.27"):
            Purifier(path)
    else:
        assert np.array_equal(Purifier(path, threads=1).purify(image), image)


def test_an_old_runtime_folds_nothing(build_model: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    content = hungry(build_model, "a shape that is computed")
    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    with pytest.raises(ModelContractError, match=r"install ONNX Runtime 1\.27"):
        demand_of(content, 1)


def test_a_larger_model_runs_on_fewer_at_a_time(
    invert_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (11, 112, 112, 3), np.uint8)
    expected = Purifier(invert_model, threads=1).purify(images)
    monkeypatch.setattr(demand, "MAX_DEMAND", 4 * IMAGE + 4)
    purifier = Purifier(invert_model, threads=1)
    sizes = []
    run = purifier._stages[0].run
    monkeypatch.setattr(
        purifier._stages[0], "run", lambda batch, u: (sizes.append(len(batch)), run(batch, u))[1]
    )
    assert np.array_equal(purifier.purify(images), expected)
    assert sizes == [4, 4, 3]


def test_a_smaller_batch_that_needs_more(
    tmp_path: Path, build_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [
        node("Shape", "image", to="s"),
        node("Gather", "s", "zero", to="count"),
        node("Sub", "limit", "count", to="left"),  # 0 for 16 images
        node("Mul", "left", "much", to="n"),
        node("ConstantOfShape", "n"),
        node("Identity", "image", to="purified"),
    ]
    constants = [constant("zero", 0), constant("limit", 16), constant("much", 50_000_000)]
    path = tmp_path / "less-is-more.onnx"
    path.write_bytes(build_model(nodes, initializers=constants).SerializeToString())
    purifier = Purifier(path, threads=1)
    with pytest.raises(ModelContractError, match="for 2 images"):
        purifier.purify(np.zeros((2, 112, 112, 3), np.uint8))
    checked = []
    original = stage.demand_of
    monkeypatch.setattr(
        stage,
        "demand_of",
        lambda content, count: (checked.append(count), original(content, count))[1],
    )
    for _ in range(2):
        purifier.purify(np.zeros((15, 112, 112, 3), np.uint8))
        purifier.purify(np.zeros((16, 112, 112, 3), np.uint8))
    assert checked == [15]  # once a size, and 16 when it was opened


def test_declared_shapes_that_lie(build_model: Build) -> None:
    nodes = [node("Tile", "image", "n"), node("Identity", "image", to="purified")]
    model = build_model(nodes, initializers=[constant("n", 7, 1, 1, 1)])
    honest = demand_of(model.SerializeToString(), 2)
    model.graph.value_info.append(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])
    )
    assert demand_of(model.SerializeToString(), 2) == honest == 2 * 8 * IMAGE


def test_the_probe_is_a_model(tiny_model: Path) -> None:
    probe = probe_of(tiny_model.read_bytes(), 5)
    model = onnx.load_from_string(probe.content)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
    image = next(given for given in model.graph.input if given.name == "image")
    assert [size.dim_value for size in image.type.tensor_type.shape.dim] == [5, 3, 112, 112]
    assert {"purified", "purified of shape"} <= {output.name for output in model.graph.output}


def test_a_convolution_without_a_kernel(build_model: Build) -> None:
    content = build_model([node("Conv", "image", to="purified")]).SerializeToString()
    with pytest.raises(ModelContractError, match="Conv to have a kernel"):
        probe_of(content, 1)


def test_refusals_are_our_error(tmp_path: Path, build_model: Build) -> None:
    content = build_model([node("Add", "image", "nothing", to="purified")]).SerializeToString()
    with pytest.raises(ModelError, match="refuses"):
        largest_batch(content, 64)


def test_without_onnx_runtime(invert_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"facepurify\[cpu\]"):
        largest_batch(invert_model.read_bytes(), 64)
