"""Throw mutated files at what reads files from strangers; nothing but our own errors may come out.

    python benchmarks/fuzz.py --minutes 60 --out fuzz.json

Targets: the image decoder, the manifest, the model contract, and models that pass it, opened and
run. With atheris installed (``pip install atheris``) mutation is guided by the coverage of
facepurify's code; else it is random, and the record says so. Each target runs in a process of its
own under a cap of memory and a time limit for each input; an input that breaks something is left in
``--findings``, and the exit status is 1. Seeds are made here, small ones of every kind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

Target = Callable[[bytes], None]

MAX_PIXELS = 1 << 20
MAX_LENGTH = 1 << 14  # bytes of an input
MEGABYTES = 3072  # of memory: the 2 GiB that a model may ask for, and the process itself
TIMEOUT = 20  # seconds for one input


def targets() -> dict[str, Target]:
    """What is fuzzed, by name; facepurify is imported here so that atheris can watch it."""
    from facepurify.demand import MAX_DEMAND, demand_of
    from facepurify.errors import FacePurifyError
    from facepurify.imagefiles import decode_image
    from facepurify.onnxfile import read_contract
    from facepurify.runtime import Session
    from facepurify.weights import read_manifest

    folder = Path(tempfile.mkdtemp(prefix="facepurify-fuzz-"))
    batch = np.full((2, 3, 112, 112), 0.5, np.float32)

    def image(data: bytes) -> None:
        for content in (data, with_checksums(data)):
            with suppress(FacePurifyError):
                decoded = decode_image(content, MAX_PIXELS)
                height, width = decoded.pixels.shape[:2]
                if decoded.pixels.dtype != np.uint8 or height * width > MAX_PIXELS:
                    raise AssertionError(f"decoded {decoded.pixels.dtype} {height}x{width}")

    def manifest(data: bytes) -> None:
        (folder / "manifest.json").write_bytes(data)
        with suppress(FacePurifyError):
            for entry in read_manifest(folder).models.values():
                if entry.path.parent != folder or entry.card.parent != folder:
                    raise AssertionError(f"left its folder for {entry.path}, {entry.card}")

    def contract(data: bytes) -> None:
        with suppress(FacePurifyError):
            read_contract(data)

    def model(data: bytes) -> None:
        with suppress(FacePurifyError):
            found = read_contract(data)
            if demand_of(data, len(batch)) <= MAX_DEMAND:
                Session(data, threads=1).run(found.outputs, {"image": batch})

    return {"image": image, "manifest": manifest, "contract": contract, "model": model}


def with_checksums(data: bytes) -> bytes:
    """Mend the checksums of a PNG, so that mutations get past them."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    mended, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        body = data[position + 4 : position + 8 + length]
        mended += data[position : position + 4] + body + struct.pack(">I", zlib.crc32(body))
        position += 12 + length
    return bytes(mended + data[position:])


def seeds(target: str) -> Iterator[bytes]:
    """Small inputs that are sound."""
    if target == "manifest":
        shipped = (Path(__file__).parents[1] / "models" / "manifest.json").read_bytes()
        yield shipped
        yield json.dumps(json.loads(shipped)).encode()
        yield b'{"schema": 1, "default": "x", "models": {}}'
    elif target == "image":
        yield from image_seeds()
    else:
        yield from model_seeds()


def image_seeds() -> Iterator[bytes]:
    """Every format, with and without colour, alpha and an EXIF orientation."""
    rng = np.random.default_rng(0)
    colour = cv2.resize(rng.integers(0, 256, (3, 4, 3), np.uint8), (12, 9))
    alpha = np.dstack([colour, colour[..., :1]])
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"

    def encode(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
        return cv2.imencode(suffix, pixels, options)[1].tobytes()

    for pixels in (colour, colour[..., 0]):
        yield encode(".png", pixels)
        jpeg = encode(".jpg", pixels)
        yield jpeg
        yield encode(".jpg", pixels, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
        yield encode(".jpg", pixels, cv2.IMWRITE_JPEG_RST_INTERVAL, 1)
        yield jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    yield encode(".png", colour[..., 0], cv2.IMWRITE_PNG_BILEVEL, 1)
    for pixels in (colour, alpha):
        yield encode(".webp", pixels, cv2.IMWRITE_WEBP_QUALITY, 80)
        yield encode(".webp", pixels, cv2.IMWRITE_WEBP_QUALITY, 101)
    png = encode(".png", alpha)
    yield png
    chunk = b"eXIf" + exif[6:]
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    yield png[:33] + chunk + png[33:]


def model_seeds() -> Iterator[bytes]:
    """Models of the contract: the least one, one with an antibody, one that computes shapes."""
    from onnx import TensorProto, helper, numpy_helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 112, 112])
    purified = helper.make_tensor_value_info("purified", TensorProto.FLOAT, ["N", 3, 112, 112])
    probability = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 2])
    mode = helper.make_tensor_value_info("mask_mode", TensorProto.INT64, [1])
    arrays = {
        "w": np.full((3, 3, 1, 1), 0.3, np.float32),
        "p": np.full((3, 2), 0.1, np.float32),
        "mask_mode": np.zeros(1, np.int64),
        "first": np.zeros(1, np.int64),
        "rest": np.array([3, 112, 112], np.int64),
    }
    weights = {name: numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()}
    node = helper.make_node
    graphs = [
        ([node("Identity", ["image"], ["purified"])], [image], [purified], []),
        (
            [
                node("Conv", ["image", "w"], ["purified"], kernel_shape=[1, 1]),
                node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
                node("MatMul", ["mean", "p"], ["logits"]),
                node("Sigmoid", ["logits"], ["probability"]),
            ],
            [image, mode],
            [purified, probability],
            ["w", "p", "mask_mode"],
        ),
        (
            [
                node("Shape", ["image"], ["shape"]),
                node("Gather", ["shape", "first"], ["count"]),
                node("Concat", ["count", "rest"], ["all"], axis=0),
                node("ConstantOfShape", ["all"], ["zeros"]),
                node("Add", ["image", "zeros"], ["purified"]),
            ],
            [image],
            [purified],
            ["first", "rest"],
        ),
    ]
    for nodes, inputs, outputs, names in graphs:
        graph = helper.make_graph(nodes, "g", inputs, outputs, [weights[name] for name in names])
        opsets = [helper.make_opsetid("", 13)]
        made = helper.make_model(graph, ir_version=8, opset_imports=opsets)
        yield made.SerializeToString()


def mutated(data: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """Change an input at a few places."""
    content = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(len(content) + 1))
        length = int(rng.integers(1, 9))
        kind = rng.integers(5)
        if kind == 0:
            content[place : place + length] = rng.bytes(length)
        elif kind == 1:
            content[place:place] = rng.bytes(length)
        elif kind == 2:
            del content[place : place + length]
        elif kind == 3:
            content[place : place + 1] = rng.choice([b"\0", b"\x01", b"\x7f", b"\x80", b"\xff"])
        else:
            other = others[rng.integers(len(others))]
            start = int(rng.integers(len(other)))
            content[place : place + 64] = other[start : start + 64]
    return bytes(content[:MAX_LENGTH])


def fuzz_at_random(name: str, seconds: float, findings: Path, seed: int) -> int:
    """Mutate at random until the time is up or something breaks; return the number of inputs."""
    target, all_seeds = targets()[name], list(seeds(name))
    rng = np.random.default_rng(seed)
    end = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < end:
        data = mutated(all_seeds[rng.integers(len(all_seeds))], all_seeds, rng)
        # kept before it runs: what kills the process has no last word
        (findings / f"last-{name}").write_bytes(data)
        begin = time.monotonic()
        target(data)
        if time.monotonic() - begin > TIMEOUT:
            raise TimeoutError(f"an input took more than {TIMEOUT} s")
        runs += 1
    (findings / f"last-{name}").unlink()
    return runs


def fuzz_with_atheris(name: str, seconds: float, findings: Path, seed: int) -> None:
    """Mutate towards new coverage until the time is up; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["facepurify"]):
        target = targets()[name]
    corpus = Path(tempfile.mkdtemp(prefix="facepurify-corpus-"))
    for number, content in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(content)
    options = {
        "seed": seed + 1,  # to libFuzzer 0 is a seed of its own choice
        "max_total_time": max(1, round(seconds)),
        "max_len": MAX_LENGTH,
        "timeout": TIMEOUT,
        "rss_limit_mb": MEGABYTES,
        "artifact_prefix": f"{findings}/{name}-",
        "print_final_stats": 1,
    }
    flags = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], target)
    atheris.Fuzz()


def work(name: str, engine: str, seconds: float, findings: Path, seed: int) -> None:
    """Fuzz one target in this process."""
    if engine == "atheris":
        fuzz_with_atheris(name, seconds, findings, seed)
        return
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 21, MEGABYTES << 21))
    print(f"stat::number_of_executed_units: {fuzz_at_random(name, seconds, findings, seed)}")


def start(name: str, engine: str, seconds: float, findings: Path, seed: int) -> dict[str, object]:
    """Fuzz one target in a process of its own, and say how it went."""
    arguments = ["--worker", name, "--engine", engine, "--minutes", str(seconds / 60)]
    arguments += ["--seed", str(seed)]
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    before = set(findings.iterdir())
    done = subprocess.run(  # noqa: S603
        [sys.executable, __file__, *arguments, "--findings", str(findings)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds + 300,
    )
    output = done.stdout + done.stderr
    runs = re.findall(r"number_of_executed_units: (\d+)", output)
    coverage = re.findall(r" cov: (\d+)", output)
    result: dict[str, object] = {
        "engine": engine,
        "seed": seed,
        "seconds": seconds,
        "inputs": int(runs[-1]) if runs else 0,
        "coverage": int(coverage[-1]) if coverage else None,
        "exit": done.returncode,
        "findings": sorted(path.name for path in set(findings.iterdir()) - before),
    }
    if done.returncode != 0:
        print(output[-4000:], file=sys.stderr)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["image", "manifest", "contract", "model"]
    parser.add_argument("--target", action="append", choices=names, help="repeat; default: all")
    parser.add_argument("--minutes", type=float, default=60, help="for all targets together")
    parser.add_argument("--engine", choices=["atheris", "random"], help="default: what is there")
    parser.add_argument("--seed", type=int, help="of the mutations; default: another each time")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), metavar="FOLDER")
    parser.add_argument("--out", metavar="JSON")
    parser.add_argument("--worker", choices=names, help=argparse.SUPPRESS)
    options = parser.parse_args()
    engine = options.engine or ("atheris" if find_spec("atheris") else "random")
    if options.worker:
        work(options.worker, engine, 60 * options.minutes, options.findings, options.seed)
        return 0
    options.findings.mkdir(parents=True, exist_ok=True)
    chosen = options.target or names
    seconds = 60 * options.minutes / len(chosen)
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    record = {name: start(name, engine, seconds, options.findings, seed) for name in chosen}
    from facepurify.files import atomic_path

    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(text + "\n", encoding="ascii")
    return 1 if any(result["exit"] for result in record.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
