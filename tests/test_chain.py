"""Chains: several models in one purifier, with floats between them."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import facepurify.weights as weights
from facepurify import Purifier
from facepurify.errors import ModelError, ModelNotFoundError, OptionError
from facepurify.images import Array
from facepurify.weights import split_chain


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def third(tmp_path: Path, build_model: Callable[..., onnx.ModelProto]) -> Path:
    """purified = image / 3: eight bits would lose what a second one multiplies back."""
    constant = numpy_helper.from_array(np.float32(1 / 3), "third")
    node = helper.make_node("Mul", ["image", "third"], ["purified"])
    path = tmp_path / "third.onnx"
    path.write_bytes(build_model([node], initializers=[constant]).SerializeToString())
    return path


@pytest.fixture
def threefold(tmp_path: Path, build_model: Callable[..., onnx.ModelProto]) -> Path:
    constant = numpy_helper.from_array(np.float32(3), "three")
    node = helper.make_node("Mul", ["image", "three"], ["purified"])
    path = tmp_path / "threefold.onnx"
    path.write_bytes(build_model([node], initializers=[constant]).SerializeToString())
    return path


@pytest.fixture
def shipped(
    tiny_model: Path, invert_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A manifest of two models with scores: "first" is suspicious from 0.5, "second" from 0.25."""
    entries = {}
    for name, threshold in (("first", 0.5), ("second", 0.25)):
        content = tiny_model.read_bytes()
        (tmp_path / f"{name}.onnx").write_bytes(content)
        entries[name] = {
            "file": f"{name}.onnx", "card": f"{name}.md", "sha256": sha256(content).hexdigest(),
            "bytes": len(content), "method": "PIN", "version": "1",
            "masks": ["expected", "fixed", "sampled"], "score_threshold": threshold,
            "training_data": ["none"], "licence": "none",
        }  # fmt: skip
    manifest = {"schema": 1, "default": "first", "models": entries}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(weights, "_FOLDERS", (tmp_path,))
    return tmp_path


def test_names_are_split_and_files_are_not(tmp_path: Path) -> None:
    assert split_chain(None) == [None]
    assert split_chain("a+b+c") == ["a", "b", "c"]
    assert split_chain(["a+b", tmp_path]) == ["a", "b", tmp_path]
    odd = tmp_path / "a+b.onnx"
    odd.touch()
    assert split_chain(str(odd)) == [str(odd)]
    for wrong in ("a+", "+", [], 3, b"a.onnx", [3], ["a", None, 3.0]):
        with pytest.raises(OptionError, match="expected"):
            split_chain(wrong)
    assert split_chain("a" * 300 + "+pin") == ["a" * 300, "pin"]  # longer than a file's name


def test_floats_pass_between(third: Path, threefold: Path) -> None:
    image = noise(112, 112, 3)
    np.testing.assert_array_equal(Purifier([third, threefold]).purify(image), image)
    rounded = Purifier(threefold).purify(np.minimum(Purifier(third).purify(image), 85))
    assert not np.array_equal(rounded, image)


def test_order_matters_and_each_is_told(tiny_model: Path, invert_model: Path) -> None:
    batch = np.random.default_rng(0).random((70, 3, 112, 112), np.float32)
    one, other = Purifier(tiny_model), Purifier(invert_model)
    chain = Purifier([tiny_model, invert_model])
    result = chain.purify_canonical(batch)
    first = one.purify_canonical(batch)
    expected = other.purify_canonical(first.images).images
    np.testing.assert_array_equal(result.images, expected)
    np.testing.assert_array_equal(result.probability, first.probability)
    assert not np.allclose(
        Purifier([invert_model, tiny_model]).purify_canonical(batch).images, expected, atol=1e-3
    )
    assert chain.info.name == "tiny+invert"
    assert chain.info.stages == (one.info, other.info)
    assert one.info.stages == ()
    assert chain.info.masks == one.info.masks
    assert chain.info.K == one.info.K
    assert chain.info.sha256 not in (one.info.sha256, other.info.sha256)
    assert repr(chain) == "Purifier('tiny+invert', mask='expected')"


def test_a_chain_of_one_is_that_model(tiny_model: Path) -> None:
    assert Purifier([tiny_model]).info == Purifier(tiny_model).info
    image = noise(112, 112, 3)
    assert Purifier([tiny_model]).inspect(image).score == Purifier(tiny_model).inspect(image).score


def test_the_score_is_the_largest_over_its_threshold(shipped: Path, invert_model: Path) -> None:
    batch = np.random.default_rng(0).random((3, 3, 112, 112), np.float32)
    batch[1] *= 0.1
    between = Purifier("first").purify_canonical(batch)
    after = Purifier("second").purify_canonical(between.images)
    assert between.score is not None
    assert after.score is not None
    chain = Purifier("first+second")
    expected = np.maximum(between.score / 0.5, after.score / 0.25)
    np.testing.assert_allclose(chain.purify_canonical(batch).score, expected, rtol=1e-6)
    assert chain.info.score_threshold == 1.0
    assert chain.info.outputs == ("purified", "probability", "score")
    found = chain.inspect(batch[1].transpose(1, 2, 0), color="rgb")
    assert found.score == pytest.approx(float(expected[1]), rel=1e-5)
    assert found.suspicious == (expected[1] >= 1)
    uncalibrated = Purifier([invert_model, shipped / "first.onnx"])
    assert uncalibrated.purify_canonical(batch).score is None
    assert uncalibrated.info.outputs == ("purified", "probability")
    assert uncalibrated.info.score_threshold is None


def test_masks_go_to_every_antibody(shipped: Path, invert_model: Path) -> None:
    image = noise(112, 112, 3)
    fixed = Purifier("first+second", mask="fixed").inspect(image)
    assert set(np.unique(fixed.mask)) <= {0.0, 1.0}
    sampled = Purifier("first+second", mask="sampled")
    np.testing.assert_array_equal(sampled.purify(image, seed=1), sampled.purify(image, seed=1))
    rng = np.random.default_rng(1)
    rng.random((1, 8), np.float32)  # the first model's
    found = sampled.inspect(image, seed=1)
    probability = sampled.purify_canonical(
        np.ascontiguousarray(image[None, ..., ::-1].transpose(0, 3, 1, 2)) / np.float32(255), 1
    ).probability
    np.testing.assert_array_equal(found.mask, probability[0] > rng.random((1, 8), np.float32)[0])
    with pytest.raises(OptionError, match=r"expected a mask of invert\+invert \(none"):
        Purifier([invert_model, invert_model], mask="fixed")


def test_what_is_not_there_is_named(shipped: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="'nothing'"):
        Purifier("first+nothing")


def test_threads_pickle_and_close(tiny_model: Path, invert_model: Path) -> None:
    chain = Purifier([tiny_model, invert_model], threads=1)
    images = [noise(112, 112, 3, seed=seed) for seed in range(8)]
    expected = [chain.purify(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(chain.purify, images), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    again = pickle.loads(pickle.dumps(chain))
    assert again.info == chain.info
    np.testing.assert_array_equal(again.purify(images[0]), expected[0])
    with chain:
        pass
    with pytest.raises(ModelError, match="closed"):
        chain.purify(images[0])


def purify_and_answer(purifier: Purifier, image: Array, answer: object) -> None:
    answer.send(purifier.purify(image))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
def test_a_forked_child_goes_on(tiny_model: Path, invert_model: Path) -> None:
    chain = Purifier([tiny_model, invert_model], threads=2)
    image = noise(112, 112, 3)
    expected = chain.purify(image)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=purify_and_answer, args=(chain, image, theirs))
    child.start()
    assert ours.poll(60)
    np.testing.assert_array_equal(ours.recv(), expected)
    child.join(60)
    assert child.exitcode == 0
