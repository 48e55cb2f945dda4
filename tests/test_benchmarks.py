"""That the benchmarks run, on sizes that measure nothing."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from facepurify import ImageFileError, Purifier
from facepurify.errors import OptionError
from facepurify.imagefiles import decode_image, encode_image, write_image
from facepurify.onnxfile import read_contract
from facepurify.runtime import Session
from facepurify.weights import read_manifest, read_model

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """Import a benchmark by its file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def guide_model() -> Path:
    """The shipped recognizer."""
    return ROOT / "models" / "recognizer.onnx"


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def asks_malloc() -> bool:
    """Whether this is Linux with a glibc that tells what it has handed out."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallinfo2")


class TestSoak:
    """Memory over time."""

    pytestmark = pytest.mark.skipif(not asks_malloc(), reason="needs Linux with glibc 2.33")

    def test_two_seconds(self, tmp_path, tiny_model):
        pytest.importorskip("insightface", reason="needs insightface for its bundled photos")
        out = tmp_path / "soak.json"
        # the limit is not for seconds: caches still fill
        done = run(
            "soak", "--minutes", 2 / 60, "--limit", 1000, "--model", tiny_model, "--out", out
        )
        assert done.returncode == 0, done.stdout + done.stderr
        record = json.loads(out.read_text())
        assert record["different"] == {}
        assert len(record["calls"]) == 7
        measures = record["memory"]
        assert set(measures) == {"resident", "anonymous", "allocated", "blocks"}
        assert all(1 < one["fifths"][0] <= one["highest"] for one in measures.values())
        assert measures["anonymous"]["highest"] < measures["resident"]["highest"]
        assert record["idle_trimmed"]["anonymous"] <= record["idle"]["anonymous"]

    def test_too_much_growth_fails(self, tmp_path, tiny_model):
        pytest.importorskip("insightface", reason="needs insightface for its bundled photos")
        arguments = ["--minutes", 0.1 / 60, "--limit", -100, "--model", tiny_model]
        assert run("soak", *arguments).returncode == 1

    def test_growth(self):
        growth = script("soak").growth
        assert growth([100.0] * 50) == 0
        assert growth([100.0 + number for number in range(50)]) == pytest.approx(38.3, abs=0.1)
        assert growth([100, 500, *[100] * 48]) == 0  # a peak is no growth
        assert growth([200.0, 100.0]) == -50

    def test_fifths(self):
        fifths = script("soak").fifths
        assert fifths([float(number) for number in range(50)]) == [4.5, 14.5, 24.5, 34.5, 44.5]
        assert fifths([3.0, 2.0]) == [3.0, 2.0]

    def test_what_differs_is_told(self):
        numbers = iter(range(10**9))
        calls = {"same": lambda: b"", "other": lambda: str(next(numbers)).encode()}
        made, different, samples = script("soak").soak(calls, 0.3, 2)
        assert set(samples) == {"resident", "anonymous", "allocated", "blocks"}
        assert all(len(values) for values in samples.values())
        assert made["other"] == different["other"] > 0
        assert set(different) == {"other"}

    @pytest.mark.parametrize(
        ("measure", "leak", "each"),
        [("allocated", lambda: bytearray(1000), 0.001), ("blocks", lambda: [object()], 2)],
        ids=["malloc", "python"],
    )
    def test_a_leak_shows_at_rest(self, measure, leak, each):
        soak = script("soak")
        kept = []

        def call() -> bytes:
            kept.append(leak())
            return b""

        measured, leaked = soak.at_rest, []
        soak.at_rest = lambda: leaked.append(len(kept)) or measured()
        soak.settle()
        before = measured()[measure]
        _, _, samples = soak.soak({"leak": call}, 0.3, 2)
        assert leaked[-1] > 1
        assert samples[measure][-1] - before >= 0.9 * each * leaked[-1]

    def test_nothing_is_called_at_rest(self):
        soak = script("soak")
        busy, seen = [], []

        def call() -> bytes:
            busy.append(None)
            time.sleep(0.001)
            busy.pop()
            return b""

        soak.at_rest = lambda: {"at rest": float(seen.append(len(busy)) or len(seen))}
        soak.soak({"call": call}, 0.3, 4)
        assert seen
        assert set(seen) == {0}


class TestFuzz:
    """Hostile files by the thousand."""

    @pytest.mark.parametrize("engine", ["random", "atheris"])
    def test_seconds(self, tmp_path, engine):
        if engine == "atheris":
            pytest.importorskip("atheris", reason="needs atheris")
        out = tmp_path / "fuzz.json"
        arguments = ["--minutes", 8 / 60, "--findings", tmp_path / "found", "--out", out]
        done = run("fuzz", "--engine", engine, "--seed", 0, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        record = json.loads(out.read_text())
        assert set(record) == {"image", "manifest", "contract", "model"}
        assert all(result["inputs"] > 10 for result in record.values())
        assert list((tmp_path / "found").iterdir()) == []

    @pytest.mark.parametrize("target", ["image", "manifest", "contract", "model"])
    def test_seeds_are_sound(self, target, tmp_path):
        fuzz = script("fuzz")
        for seed in fuzz.seeds(target):
            if target == "image":
                assert decode_image(seed).pixels.size
                assert fuzz.with_checksums(seed) == seed
            elif target == "manifest" and json.loads(seed)["models"]:
                (tmp_path / "manifest.json").write_bytes(seed)
                assert read_manifest(tmp_path).models
            elif target == "contract":
                assert read_contract(seed).outputs
            elif target == "model":
                image = np.zeros((1, 3, 112, 112), np.float32)
                (purified,) = Session(seed, threads=1).run(["purified"], {"image": image})
                assert purified.shape == image.shape

    def test_what_breaks_is_found_and_kept(self, tmp_path, monkeypatch):
        fuzz = script("fuzz")
        broken = []

        def fragile(data: bytes) -> None:
            if len(data) % 7 == 0:
                broken.append(data)
                raise KeyError(len(data))

        monkeypatch.setattr(fuzz, "targets", lambda: {"image": fragile})
        with pytest.raises(KeyError):
            fuzz.fuzz_at_random("image", 60, tmp_path, seed=0)
        assert (tmp_path / "last-image").read_bytes() == broken[0]

    def test_a_mended_png_is_read_again(self):
        fuzz = script("fuzz")
        png = bytearray(encode_image(np.zeros((9, 12), np.uint8), "PNG"))
        png[19] = 13  # the width
        with pytest.raises(ImageFileError, match="damaged b'IHDR'"):
            decode_image(bytes(png))
        with pytest.raises(ImageFileError, match="damaged one"):
            decode_image(fuzz.with_checksums(bytes(png)))


class TestFloor:
    """What the machine allows."""

    def test_multiply_adds_by_hand(self, build_model):
        def weights(name: str, *shape: int) -> onnx.TensorProto:
            return numpy_helper.from_array(np.zeros(shape, np.float32), name)

        node = helper.make_node
        nodes = [
            node("Conv", ["image", "kernel"], ["small"], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("ReduceMean", ["small"], ["mean"], axes=[2, 3], keepdims=0),  # [N, 6]
            node("Gemm", ["mean", "square"], ["code"], transB=1),  # [N, 5]
            node("Gemm", ["code", "mean"], ["turned"], transA=1),  # [5, 6] over N
            node("MatMul", ["image", "side"], ["wide"]),  # [N, 3, 112, 7]
            node("Identity", ["image"], ["purified"]),
        ]
        constants = [
            weights("kernel", 6, 3, 3, 3),
            weights("square", 5, 6),
            weights("side", 112, 7),
        ]
        model = build_model(nodes, initializers=constants)
        floor = script("floor")
        for batch in (1, 4):
            convolution = batch * 6 * 56 * 56 * 27
            products = batch * 5 * 6 + 5 * 6 * batch + batch * 3 * 112 * 7 * 112
            assert floor.multiply_adds(model, batch) == convolution + products

    def test_the_shipped_model(self):
        floor = script("floor")
        model = onnx.load_from_string(read_model("pin").content)
        one, four = (floor.multiply_adds(model, batch) for batch in (1, 4))
        assert four == 4 * one > 10_000_000

    def test_what_ships_computes_as_much_as_the_record_says(self):
        """Counted, not timed: whoever makes a model larger has to measure it anew."""
        floor = script("floor")
        record = json.loads((ROOT / "benchmarks" / "records" / "floor.json").read_text())
        recorded = {row["model"]: row["megamacs_an_image"] for row in record["rows"]}
        for name in ("pin", "ais", "uddn", "immune"):
            model = onnx.load_from_string(read_model(name).content)
            assert floor.multiply_adds(model, 1) / 1e6 == pytest.approx(recorded[name], rel=1e-3)

    def test_a_run(self, tmp_path, tiny_model):
        out = tmp_path / "floor.json"
        arguments = ["--model", tiny_model, "--batch", 2, "--threads", 1, "--repeats", 1]
        done = run("floor", *arguments, "--out", out)
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(out.read_text())["rows"]
        assert row["bound_by"] in ("arithmetic", "memory")
        assert row["megamacs_an_image"] == pytest.approx(3 * 8 / 1e6)
        assert row["model_over_floor"] == pytest.approx(row["model_ms"] / row["floor_ms"])


class TestFloorOfAChain:
    """Each stage counts."""

    def test_a_run(self, tmp_path, tiny_model, invert_model):
        out = tmp_path / "floor.json"
        chain = f"{tiny_model}+{invert_model}"
        arguments = ["--model", chain, "--batch", 2, "--threads", 1, "--repeats", 1]
        done = run("floor", *arguments, "--out", out)
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(out.read_text())["rows"]
        assert row["megamacs_an_image"] == pytest.approx(3 * 8 / 1e6)
        assert row["call_over_model"] == pytest.approx(row["call_ms"] / row["model_ms"])


def test_latency(tmp_path, tiny_model, guide_model):
    pytest.importorskip("torch", reason="needs torch")
    out = tmp_path / "latency.json"
    arguments = ["--recognizer", guide_model, "--purifier", tiny_model, "--no-published"]
    for size in (1, 3):
        arguments += ["--batch", size, "--threads", size]
    done = run("latency", *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    wheres = ["batch 1", "batch 3", "batch 1, 3 threads", "batch 3, 3 threads"]
    assert list(record) == [f"{tiny_model}, recognizer, {where}" for where in wheres]
    assert set(script("compare").ratios_of(record)) == set(record)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestFootprint:
    """Start-up and memory."""

    def test_both_are_measured_in_processes_of_their_own(self, tmp_path, tiny_model, guide_model):
        footprint = script("footprint")
        footprint.RUNS = 1
        record = footprint.measure(str(tiny_model), str(guide_model))
        assert len(record) == 2
        seconds, megabytes = (list(values.values()) for values in record.values())
        assert all(value > 0 for value in seconds)
        assert all(20 < value < 1000 for value in megabytes)
        assert script("compare").ratios_of(record)


class TestAlarms:
    """Honest faces, noisy or badly stored."""

    def test_the_share_above_the_threshold_and_the_likeness(self, tmp_path, faces):
        alarms = script("alarms")
        (tmp_path / "faces").mkdir()
        noise = np.random.default_rng(0).normal(0, 12, faces[0].shape)
        for number, face in enumerate(faces):
            seen = face if number % 2 else (face + noise).clip(0, 255).astype(np.uint8)
            write_image(tmp_path / "faces" / f"{number}.png", seen)
        out = tmp_path / "alarms.json"
        done = run("alarms", tmp_path / "faces", "--purifier", "pin", "--limit", 4, "--out", out)
        assert done.returncode == 0, done.stderr
        record = json.loads(out.read_text())
        assert record["faces"] == 4
        worse = {"as JPEG 75", "as JPEG 15", "noise of sigma 4", "noise of sigma 8"}
        assert set(record["pin"]) == {"as they are"} | worse
        for way, found in record["pin"].items():
            assert (found["likeness without"] < 0.9999) == (way in worse)
            assert 0.3 < found["likeness with"] < 1
        files = sorted((tmp_path / "faces").iterdir())
        found = alarms.alarms(Purifier("pin"), files)
        assert found["as they are"]["alarms"] == 0.5  # the noisy half
        mild, strong = found["noise of sigma 4"], found["noise of sigma 8"]
        assert 0.3 < strong["likeness without"] < mild["likeness without"] < 1

    def test_no_faces_and_no_threshold(self, tmp_path, tiny_model):
        alarms = script("alarms")
        assert "got no .jpg or .png" in run("alarms", tmp_path).stderr
        with pytest.raises(OptionError, match="purifier with a threshold"):
            alarms.alarms(Purifier(tiny_model), [])


class TestPipeline:
    """insightface over whole photos."""

    def test_a_face_is_matched_where_it_was(self):
        pipeline = script("pipeline")

        def face(x: float, angle: float) -> SimpleNamespace:
            return SimpleNamespace(
                kps=np.full((5, 2), x),
                bbox=np.array([x - 10, x - 10, x + 10, x + 10]),
                normed_embedding=np.array([np.cos(angle), np.sin(angle)]),
            )

        after = [face(103, np.pi / 3), face(40, 0)]
        assert pipeline.matched([face(100, 0), face(60, 0)], after) == pytest.approx([0.5])
        assert pipeline.matched([face(100, 0)], []) == []

    @pytest.mark.parametrize("model", ["tiny", None])
    def test_real_photos(self, tmp_path, shared, tiny_model, model):
        pytest.importorskip("insightface", reason="needs insightface")
        with zipfile.ZipFile(shared / "data" / "photos_250.zip") as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
            archive.extractall(tmp_path / "photos", names[:12])
        out = tmp_path / "pipeline.json"
        pack = [shared / "models" / f"{name}.onnx" for name in ("det_500m", "mobilefacenet_ms1m")]
        arguments = ["--pack", pack[0], "--pack", pack[1], "--out", out]
        if model:
            arguments += ["--purifier", tiny_model]
        done = run("pipeline", tmp_path / "photos", *arguments)
        assert done.returncode == 0, done.stderr
        record = json.loads(out.read_text())
        row = record[str(tiny_model) if model else "default"]
        assert (record["photos"], row["wrapped"]["lost"]) == (12, 0)
        assert row["faces"] >= 12
        if model is None:  # what ships keeps faces alike; the tiny one is no purifier
            assert row["wrapped"]["mean cosine"] >= 0.85
            assert row["photo"]["mean cosine"] >= 0.85


class TestCompare:
    """Ratios of two records."""

    def test_a_worse_ratio_fails(self, tmp_path):
        row = {"model": "pin", "batch": 1, "threads": 1, "model_ms": 1.0, "call_over_floor": 2.0}
        paths = {}
        for name, ratio, slow in (("old", 2.0, 1.0), ("same", 2.2, 90.0), ("worse", 2.4, 1.0)):
            paths[name] = tmp_path / f"{name}.json"
            changed = {**row, "call_over_floor": ratio, "model_ms": slow}
            paths[name].write_text(json.dumps({"rows": [changed]}))
        assert run("compare", paths["old"], paths["same"]).returncode == 0  # seconds do not count
        failed = run("compare", paths["old"], paths["worse"])
        assert failed.returncode == 1
        assert "2.000 became 2.400, +20.0 %" in failed.stdout
        assert run("compare", paths["old"], paths["worse"], "--limit", 25).returncode == 0

    def test_times_of_a_purifier_and_its_rival(self):
        compare = script("compare")
        old = compare.ratios_of({"pin, recognizer, batch 1": {"pin": 1.0, "recognizer": 4.0}})
        assert old == {"pin, recognizer, batch 1": 0.25}
        assert compare.compare(old, {"pin, recognizer, batch 1": 0.2, "more": 9.0}, 5) == []
        assert compare.compare(old, {}, 5) == ["pin, recognizer, batch 1: no longer measured"]
        assert len(compare.compare(old, {"pin, recognizer, batch 1": float("nan")}, 5)) == 1

    def test_the_recorded_ones_can_be_read(self):
        compare, records = script("compare"), ROOT / "benchmarks" / "records"
        for path in (records / f"{name}.json" for name in ("floor", "latency", "footprint")):
            ratios = compare.read(path)
            assert len(ratios) >= 4
            assert compare.compare(ratios, ratios, 0) == []

    @pytest.mark.parametrize("content", ["", "[]", '{"rows": [1]}', '{"a": {"b": 1}}', '{"a": 1}'])
    def test_what_is_no_record(self, tmp_path, content):
        path = tmp_path / "x.json"
        path.write_text(content)
        done = run("compare", path, path)
        assert done.returncode == 2
        assert "DataError: expected a record" in done.stderr


def test_folder(tmp_path, tiny_model):
    out = tmp_path / "folder.json"
    done = run("folder", "--images", 30, "--workers", 2, "--model", tiny_model, "--out", out)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["images"] == 30
    (row,) = record["rows"]
    assert row["workers"] == 2
    assert 30 < row["megabytes_for_a_tenth"] < 2000  # at least an interpreter with its libraries
    assert 30 < row["megabytes"] < 2000
    assert "2 worker(s): " in done.stdout
