"""How far a purifier is from what the machine's arithmetic and memory allow.

    python benchmarks/floor.py --out floor.json

The floor of a batch is the larger of two times: its multiply-adds (of convolutions and matrix
products) over the rate that ONNX Runtime reaches on a 1024x1024 matrix product, and the bytes that
must move (weights, images in, images out) over the rate of copying memory; both rates are measured
in turns with the model, with as many threads. Against it: the model alone, and the whole call on
uint8 images. Run it on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import facepurify
from facepurify import Purifier
from facepurify.bench.latency import median_times
from facepurify.files import atomic_path
from facepurify.runtime import Session
from facepurify.weights import read_manifest, read_model, split_chain

SIDE = 1024  # of the square matrices that set the rate
COPIED = 64 << 20  # bytes that each thread copies
IMAGE_BYTES = 2 * 4 * 3 * 112 * 112  # float32, in and out


def shapes_of(model: onnx.ModelProto, batch: int) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that a node makes, by running the model with all of them as outputs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [name for node in shown.graph.node for name in node.output if name]
    known = {output.name for output in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    # as the file has it: nothing fused, nothing folded
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    images = np.full((batch, 3, 112, 112), 0.5, np.float32)
    shapes = {
        name: np.shape(value)
        for name, value in zip(names, session.run(names, {"image": images}), strict=True)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return shapes | {"image": images.shape}


def multiply_adds(model: onnx.ModelProto, batch: int) -> int:
    """Count the multiply-adds of the convolutions and matrix products of a batch."""
    shapes = shapes_of(model, batch)
    total = 0
    for node in model.graph.node:
        made = shapes[node.output[0]]
        if node.op_type == "Conv":
            each = np.prod(shapes[node.input[1]][1:])  # channels of the group x kernel
        elif node.op_type == "MatMul":
            each = shapes[node.input[0]][-1]
        elif node.op_type == "Gemm":
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            each = shapes[node.input[0]][0 if turned else 1]
        else:
            continue
        total += int(np.prod(made) * each)
    return total


def matrix_product(threads: int) -> Callable[[], object]:
    """A product of two square matrices in ONNX Runtime."""
    names = ("a", "b", "c")
    a, b, c = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [SIDE, SIDE]) for n in names)
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "g", [a, b], [c])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    session = Session(model.SerializeToString(), threads=threads)
    feeds = {name: np.full((SIDE, SIDE), 0.5, np.float32) for name in "ab"}
    return lambda: session.run(["c"], feeds)


def copying(threads: int) -> Callable[[], object]:
    """Copying more memory than caches hold, a part in each thread."""
    pool = ThreadPoolExecutor(threads)
    parts = [(np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)) for _ in range(threads)]
    return lambda: list(pool.map(lambda part: np.copyto(*part), parts))


def measure(name: str, batch: int, threads: int, repeats: int) -> dict[str, object]:
    """One row: the floor of a batch, and what it takes."""
    contents = [read_model(part).content for part in split_chain(name)]
    models = [onnx.load_from_string(content) for content in contents]
    sessions = [Session(content, threads=threads) for content in contents]
    purifier = Purifier(name, threads=threads)
    images = np.random.default_rng(0).integers(0, 256, (batch, 112, 112, 3), np.uint8)
    canonical = images.transpose(0, 3, 1, 2) / np.float32(255)

    def run(_: object) -> None:
        passed = canonical
        for session in sessions:
            (passed,) = session.run(["purified"], {"image": passed})

    product, copy = matrix_product(threads), copying(threads)
    times = median_times(
        {
            "model": run,
            "call": lambda _: purifier.purify(images),
            "product": lambda _: product(),
            "copy": lambda _: copy(),
        },
        images,
        repeats,
    )
    work = sum(multiply_adds(model, batch) for model in models)
    weights = sum(len(t.raw_data) for model in models for t in model.graph.initializer)
    moved = weights + len(models) * batch * IMAGE_BYTES
    rate = SIDE**3 / times["product"]
    bandwidth = 2 * COPIED * threads / times["copy"]
    floor = max(work / rate, moved / bandwidth)
    return {
        "model": name,
        "batch": batch,
        "threads": threads,
        "megamacs_an_image": work / batch / 1e6,
        "gigamacs_a_second": rate / 1e9,
        "gigabytes_a_second": bandwidth / 1e9,
        "floor_ms": 1000 * floor,
        "bound_by": "arithmetic" if work / rate >= moved / bandwidth else "memory",
        "model_ms": 1000 * times["model"],
        "call_ms": 1000 * times["call"],
        "model_over_floor": times["model"] / floor,
        "call_over_floor": times["call"] / floor,
        "call_over_model": times["call"] / times["model"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", metavar="NAME|ONNX", help="or a chain; repeat")
    parser.add_argument("--batch", action="append", type=int, help="repeat (1, 8, 32, 128)")
    parser.add_argument("--threads", action="append", type=int, help="repeat (1, 2)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    rows = []
    for name in options.model or [*read_manifest().models, "uddn+pin"]:
        for threads in options.threads or [1, 2]:
            for batch in options.batch or [1, 8, 32, 128]:
                row = measure(name, batch, threads, options.repeats)
                rows.append(row)
                print(
                    f"{name}, batch {batch}, {threads} thread(s): floor {row['floor_ms']:.2f} ms "
                    f"({row['bound_by']}), model {row['model_over_floor']:.1f} x, "
                    f"whole call {row['call_over_floor']:.1f} x"
                )
    record = {"facepurify": facepurify.__version__, "rows": rows}
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
