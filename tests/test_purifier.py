from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from facepurify import ARCFACE_TEMPLATE, Purifier
from facepurify.errors import (
    FacePurifyError,
    ImageError,
    ImageShapeError,
    LandmarkOutsideError,
    LandmarkShapeError,
    ModelChecksumError,
    ModelError,
    ModelOutputError,
    OptionError,
    SeedError,
)
from facepurify.images import Array
from facepurify.runtime import Session


@pytest.fixture(scope="module")
def invert(invert_model: Path) -> Purifier:
    return Purifier(invert_model, threads=1)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Purifier:
    return Purifier(tiny_model, threads=1)


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def purify_elsewhere(purifier: Purifier, image: Array) -> Array:
    return purifier.purify(image)


# What goes in comes out


@pytest.mark.parametrize("shape", [(112, 112), (112, 112, 3), (2, 112, 112, 3), (1, 112, 112, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_kind_is_kept(invert: Purifier, shape: tuple[int, ...], dtype: str, color: str) -> None:
    image = noise(*shape).astype(dtype)
    full = 255
    if dtype != "uint8":
        image, full = image / np.asarray(255, dtype), 1
    before = image.copy()
    purified = invert.purify(image, color=color)
    assert purified.dtype == image.dtype
    assert purified.shape == image.shape
    np.testing.assert_allclose(purified, full - image, atol=0 if dtype == "uint8" else 1e-6)
    np.testing.assert_array_equal(image, before)
    assert not np.shares_memory(purified, image)


def test_list_of_mixed_kinds_and_sizes(invert: Purifier) -> None:
    images = [noise(112, 112, 3), noise(64, 80), noise(250, 250, 3) / 255.0, noise(1, 1)]
    purified = invert.purify(images)
    assert isinstance(purified, list)
    for before, after in zip(images, purified, strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
    crops = invert.purify(images, keep_size=False)
    assert [crop.shape for crop in crops] == [(112, 112, 3), (112, 112), (112, 112, 3), (112, 112)]
    np.testing.assert_array_equal(crops[0], purified[0])


def test_views_of_any_layout(invert: Purifier) -> None:
    image = noise(224, 336, 3)
    view = np.flip(image[::2, ::3], 1)
    view.flags.writeable = False
    expected = 255 - np.ascontiguousarray(view)
    np.testing.assert_array_equal(invert.purify(view), expected)
    np.testing.assert_array_equal(invert.purify(np.asfortranarray(view)), expected)


def test_colour_order_matters_to_the_model(tiny: Purifier) -> None:
    image = noise(112, 112, 3)
    image[..., 0] //= 4
    as_rgb = tiny.purify(image[..., ::-1], color="rgb")
    np.testing.assert_array_equal(tiny.purify(image), as_rgb[..., ::-1])
    assert not np.array_equal(tiny.purify(image), tiny.purify(image, color="rgb"))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(0, 2**32 - 1), st.data())
def test_results_do_not_depend_on_the_batch(
    tiny: Purifier, count: int, seed: int, data: st.DataObject
) -> None:
    batch = noise(count, 112, 112, 3, seed=seed)
    index = data.draw(st.integers(0, count - 1))
    together = tiny.purify(batch)
    # Bit for bit for this model; matrix products may be blocked by batch size in larger ones.
    np.testing.assert_array_equal(together[index], tiny.purify(batch[index]))
    np.testing.assert_array_equal(tiny.purify(list(batch))[index], together[index])


def test_a_sampled_mask_does_not_depend_on_the_batch(tiny_model: Path) -> None:
    sampled = Purifier(tiny_model, threads=1, mask="sampled")
    batch = noise(70, 112, 112, 3)
    together = sampled.purify(batch, seed=5)
    for index in (0, 63, 64, 69):
        np.testing.assert_array_equal(together[index], sampled.purify(batch[index], seed=5))


# Masks and seeds


def test_masks_by_hand(tiny_model: Path) -> None:
    batch = np.random.default_rng(1).random((3, 3, 112, 112), np.float32)
    for mask in ("expected", "fixed", "sampled"):
        purifier = Purifier(tiny_model, threads=1, mask=mask)
        result = purifier.purify_canonical(batch, seed=7)
        p = result.probability
        assert p is not None
        assert result.score is not None
        uniform = np.random.default_rng(7).random((1, 8), np.float32)
        antibody = {"expected": p, "fixed": p > p.mean(1, keepdims=True), "sampled": p > uniform}
        level = antibody[mask].mean(1)[:, None, None, None]
        np.testing.assert_allclose(result.images, 0.9 * batch + 0.1 * level, atol=1e-6)
        np.testing.assert_allclose(result.score, batch.mean((1, 2, 3)), atol=1e-5)
        found = purifier.inspect([*(batch.transpose(0, 2, 3, 1))], color="rgb", seed=7)
        np.testing.assert_array_equal(np.stack([f.mask for f in found]), antibody[mask])


def test_seeds_repeat_and_differ(tiny_model: Path) -> None:
    sampled = Purifier(tiny_model, threads=1, mask="sampled")
    image = noise(112, 112, 3)
    masks = [sampled.inspect(image, seed=seed).mask for seed in (1, 1, np.int64(1), 2)]
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])
    assert not np.array_equal(masks[0], masks[3])
    drawn = {sampled.inspect(image).mask.tobytes() for _ in range(20)}
    assert len(drawn) > 1


@pytest.mark.parametrize("seed", [-1, 1.0, "1", True, [1]])
def test_wrong_seed(tiny: Purifier, seed: object) -> None:
    with pytest.raises(SeedError):
        tiny.purify(noise(112, 112, 3), seed=seed)


def test_a_mask_that_the_model_does_not_have(invert_model: Path, tiny_model: Path) -> None:
    with pytest.raises(OptionError, match="none, since it has no antibody"):
        Purifier(invert_model, mask="expected")
    with pytest.raises(OptionError, match=r"expected, fixed, sampled.*'random'"):
        Purifier(tiny_model, mask="random")


# Photos


def test_photo_is_purified_at_the_faces_only(
    invert: Purifier, photo: Array, landmarks: Array
) -> None:
    purified = invert.purify(photo, landmarks=landmarks)
    assert (purified.dtype, purified.shape) == (photo.dtype, photo.shape)
    for face in landmarks:
        x, y = face[2].astype(int)  # the nose
        np.testing.assert_allclose(
            purified[y, x].astype(int), 255 - photo[y, x].astype(int), atol=40
        )
    far = np.ones(photo.shape[:2], bool)
    for face in landmarks:
        reach = 3 * np.ptp(face, 0).max()
        left, top = (face.mean(0) - reach).clip(0).astype(int)
        right, bottom = (face.mean(0) + reach).astype(int)
        far[top:bottom, left:right] = False
    assert far.any()
    np.testing.assert_array_equal(purified[far], photo[far])


def test_one_face_or_many_of_one(invert: Purifier, photo: Array, landmarks: Array) -> None:
    one = invert.purify(photo, landmarks=landmarks[0])
    np.testing.assert_array_equal(invert.purify(photo, landmarks=landmarks[:1]), one)
    np.testing.assert_array_equal(invert.purify(photo, landmarks=landmarks[0].tolist()), one)


def test_no_faces_is_the_photo_itself(invert: Purifier, photo: Array) -> None:
    purified = invert.purify(photo, landmarks=np.zeros((0, 5, 2)))
    np.testing.assert_array_equal(purified, photo)
    assert not np.shares_memory(purified, photo)


def test_photos_in_a_list_and_an_array(invert: Purifier, landmarks: Array, photo: Array) -> None:
    sets = [landmarks[:2], landmarks[3]]
    expected = [invert.purify(photo, landmarks=faces) for faces in sets]
    listed = invert.purify([photo, photo], landmarks=sets)
    stacked = invert.purify(np.stack([photo, photo]), landmarks=sets)
    for got in (listed, stacked):
        np.testing.assert_array_equal(np.stack(got), np.stack(expected))
    assert isinstance(listed, list)


def test_overlapping_faces_are_pasted_in_order(invert: Purifier) -> None:
    photo = noise(200, 240, 3)
    left = ARCFACE_TEMPLATE + 40
    right = left + np.array([50, 0])
    both = invert.purify(photo, landmarks=np.stack([left, right]))
    second = invert.purify(photo, landmarks=right)
    np.testing.assert_array_equal(both[50:140, 100:190], second[50:140, 100:190])


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_grey_photo(invert: Purifier, dtype: str) -> None:
    photo = noise(200, 200).astype(dtype) / (1 if dtype == "uint8" else 255)
    photo = photo.astype(dtype)
    purified = invert.purify(photo, landmarks=ARCFACE_TEMPLATE + 44)
    full = 255 if dtype == "uint8" else 1
    inside = np.s_[50:150, 50:150]
    np.testing.assert_allclose(purified[inside], full - photo[inside], atol=1e-6)
    assert purified.dtype == photo.dtype


@pytest.mark.parametrize(
    ("scale", "nose"),
    [(1, (0, 0)), (1, (239, 120)), (0.1, (120, 120)), (20, (9, 9)), (900, (5, 5))],
)
def test_faces_at_the_border_tiny_and_huge(
    invert: Purifier, scale: float, nose: tuple[int, int]
) -> None:
    photo = np.full((240, 240, 3), 100, np.uint8)
    landmarks = scale * (ARCFACE_TEMPLATE - ARCFACE_TEMPLATE[2]) + nose
    purified = invert.purify(photo, landmarks=landmarks)
    assert purified.shape == photo.shape
    assert (purified[nose[1], nose[0]] != 100).all()


def test_wrong_landmarks(invert: Purifier) -> None:
    photo = noise(200, 200, 3)
    with pytest.raises(LandmarkOutsideError):
        invert.purify(photo, landmarks=ARCFACE_TEMPLATE + 500)
    for wrong in ([ARCFACE_TEMPLATE], [], 3):
        with pytest.raises(LandmarkShapeError, match="2 photos"):
            invert.purify([photo, photo], landmarks=wrong)
    with pytest.raises(LandmarkShapeError):
        invert.purify([photo, photo], landmarks=[ARCFACE_TEMPLATE, None])
    with pytest.raises(OptionError, match="keep_size"):
        invert.purify(photo, landmarks=ARCFACE_TEMPLATE, keep_size=False)


@pytest.mark.parametrize("method", ["purify", "inspect"])
def test_wrong_options(invert: Purifier, method: str) -> None:
    with pytest.raises(OptionError, match="color"):
        getattr(invert, method)(noise(112, 112, 3), color="BGR")
    with pytest.raises(ImageError):
        getattr(invert, method)(noise(112, 112, 4))


# Inspection


def test_inspect_without_optional_outputs(invert: Purifier) -> None:
    image = noise(112, 112, 3)
    found = invert.inspect(image)
    np.testing.assert_array_equal(found.image, image)
    assert not np.shares_memory(found.image, image)  # who reuses a buffer keeps what was seen
    np.testing.assert_array_equal(found.purified, invert.purify(image))
    assert (found.score, found.threshold, found.suspicious, found.mask) == (None,) * 4


def test_inspect_in_the_kind_of_the_input(tiny: Purifier, photo: Array, landmarks: Array) -> None:
    crops = noise(3, 60, 60, 3)
    several = tiny.inspect(crops)
    assert len(several) == 3
    (listed,) = tiny.inspect([crops[1]])
    np.testing.assert_array_equal(listed.removed, several[1].removed)
    found = tiny.inspect(photo, landmarks=landmarks[2])
    np.testing.assert_array_equal(found.purified, tiny.purify(photo, landmarks=landmarks[2]))
    assert found.score is not None
    assert 0 < found.score < 1
    with pytest.raises(LandmarkShapeError, match="one face"):
        tiny.inspect(photo, landmarks=landmarks)


# Whatever comes in


NUMBERS = [np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64, np.complex64, np.bool_]
ANY_ARRAY = hnp.arrays(
    st.sampled_from(NUMBERS),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
    | st.sampled_from([(9, 7), (9, 7, 3), (2, 9, 7, 3), (9, 7, 4), (1, 1, 3), (0, 7, 3)]),
)
ANYTHING = (
    ANY_ARRAY | st.none() | st.integers() | st.text(max_size=3) | st.lists(ANY_ARRAY, max_size=3)
)
ANY_POINTS = ANYTHING | hnp.arrays(
    np.float64, st.sampled_from([(5, 2), (2, 5, 2), (0, 5, 2)]), elements=st.floats(width=64)
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, about numbers that are none
@settings(max_examples=200, deadline=None)
@given(image=ANYTHING, landmarks=ANY_POINTS, color=st.sampled_from(["bgr", "rgb", "", None]))
@pytest.mark.parametrize("method", ["purify", "inspect", "purify_canonical", "wrap"])
def test_anything_is_purified_or_refused(
    tiny: Purifier, method: str, image: object, landmarks: object, color: object
) -> None:
    call: Callable[[], object] = {
        "purify": lambda: tiny.purify(image, landmarks=landmarks, color=color),
        "inspect": lambda: tiny.inspect(image, landmarks=landmarks, color=color),
        "purify_canonical": lambda: tiny.purify_canonical(image, seed=landmarks),
        "wrap": lambda: tiny.wrap(image),
    }[method]
    with contextlib.suppress(FacePurifyError):
        call()


# What a model may not give


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ([("Sub", ["image", "image"], "z"), ("Div", ["z", "z"], "purified")], "finite"),
        ([("Add", ["image", "one"], "purified")], "finite and in"),
        ([("Slice", ["image", "from", "to"], "purified")], "of shape"),
    ],
)
def test_model_output(
    tmp_path: Path,
    build_model: Callable[..., onnx.ModelProto],
    nodes: list[tuple[str, list[str], str]],
    match: str,
) -> None:
    constants = {
        "one": np.float32(1),
        "from": np.array([0, 0, 0, 0]),
        "to": np.array([99, 3, 112, 56]),
    }
    model = build_model(
        [helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes],
        initializers=[numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    path = tmp_path / "wrong.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelOutputError, match=match):
        Purifier(path).purify(noise(112, 112, 3))


def test_a_probability_of_nothing(
    tmp_path: Path, build_model: Callable[..., onnx.ModelProto]
) -> None:
    constants = {"zero": np.array([0]), "one": np.array([1])}
    model = build_model(
        [
            helper.make_node("Identity", ["image"], ["purified"]),
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Slice", ["flat", "zero", "zero", "one"], ["probability"]),
        ],
        outputs=[
            helper.make_tensor_value_info("purified", TensorProto.FLOAT, ["N", 3, 112, 112]),
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 0]),
        ],
        initializers=[numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    path = tmp_path / "none.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelOutputError, match="`probability` to hold numbers"):
        Purifier(path).purify(noise(112, 112, 3))


def test_a_search_that_gives_no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    purifier = Purifier("ais", budget=(1, 1), threads=1)
    search = purifier._stages[0]._search
    assert search is not None
    monkeypatch.setattr(search, "keep", lambda x, _: np.full_like(x, np.nan))
    with pytest.raises(ModelOutputError, match="expected `purified` finite"):
        purifier.purify(noise(112, 112, 3))


@pytest.mark.parametrize("columns", [slice(0, 9), 0])
def test_a_code_that_the_critic_does_not_know(
    monkeypatch: pytest.MonkeyPatch, columns: slice | int
) -> None:
    purifier = Purifier("ais", budget=(1, 1), threads=1)
    session = purifier._stages[0]._session
    assert session is not None
    run = session.run

    def cut(names: tuple[str, ...], feeds: Any) -> list[Array]:
        assert names[-1] == "code"
        *others, code = run(names, feeds)
        return [*others, code[:, columns]]

    monkeypatch.setattr(session, "run", cut)
    with pytest.raises(ModelOutputError, match=r"`code` of shape \(1, 128\)|as many codes"):
        purifier.purify(noise(112, 112, 3))


# The canonical way


def test_canonical_in_chunks(tiny: Purifier) -> None:
    batch = np.random.default_rng(2).random((130, 3, 112, 112), np.float32)
    result = tiny.purify_canonical(batch)
    assert result.images.shape == batch.shape
    assert result.probability is not None
    assert result.probability.shape == (130, 8)
    assert result.score is not None
    np.testing.assert_array_equal(
        result.images[64:66], tiny.purify_canonical(batch[64:66].copy()).images
    )


def test_a_cpu_gets_what_its_caches_hold(invert: Purifier, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    run = Session.run
    monkeypatch.setattr(
        Session, "run", lambda *given: (sizes.append(len(given[2]["image"])), run(*given))[1]
    )
    images = noise(33, 112, 112, 3)
    assert np.array_equal(invert.purify(images), 255 - images)
    assert sizes == [16, 16, 1]


def test_canonical_without_optional_outputs(invert: Purifier) -> None:
    result = invert.purify_canonical(np.zeros((1, 3, 112, 112), np.float32))
    assert result.probability is None
    assert result.score is None
    with pytest.raises(ImageShapeError):
        invert.purify_canonical(np.zeros((1, 112, 112, 3), np.float32))


# Threads, processes, pickles


def test_many_threads_share_one(tiny_model: Path) -> None:
    sampled = Purifier(tiny_model, threads=1, mask="sampled")
    images = [noise(112, 112, 3, seed=seed) for seed in range(40)]
    expected = [sampled.purify(image, seed=i) for i, image in enumerate(images)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda pair: sampled.purify(pair[1], seed=pair[0]), enumerate(images)))
    np.testing.assert_array_equal(np.stack(got), np.stack(expected))


@pytest.mark.parametrize("inner", [1, 2])
def test_sixteen_threads_give_what_one_gives(photo: Array, landmarks: Array, inner: int) -> None:
    crops = noise(5, 112, 112, 3)
    with Purifier(threads=inner) as purifier:  # the shipped model
        calls: list[Callable[[], list[Array]]] = [
            lambda: [purifier.purify(crops[0])],
            lambda: [purifier.purify(crops)],
            lambda: purifier.purify([crops[1], crops[2][:50], crops[3][..., 0], crops[4] / 255]),
            lambda: [purifier.purify(photo, landmarks=landmarks)],
            lambda: [purifier.inspect(crops[1]).removed],
            lambda: [found.mask for found in purifier.inspect(crops)],
        ]
        expected = [call() for call in calls]
        start = threading.Barrier(16)

        def work(number: int) -> list[tuple[int, list[Array]]]:
            start.wait(60)
            order = [(number + turn) % len(calls) for turn in range(2 * len(calls))]
            return [(index, calls[index]()) for index in order]

        with ThreadPoolExecutor(16) as pool:
            answers = [answer for answers in pool.map(work, range(16)) for answer in answers]
    assert len(answers) == 16 * 2 * len(calls)
    for index, got in answers:
        for one, other in zip(got, expected[index], strict=True):
            np.testing.assert_array_equal(one, other)


def test_many_purifiers_at_once(tiny_model: Path, invert_model: Path) -> None:
    image = noise(112, 112, 3)
    models = [tiny_model, invert_model]
    expected = [Purifier(model, threads=1).purify(image) for model in models]
    many = [Purifier(models[number % 2], threads=1) for number in range(40)]
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda purifier: purifier.purify(image), many))
    for number, purifier in enumerate(many):
        np.testing.assert_array_equal(got[number], expected[number % 2])
        purifier.close()


def test_closing_while_others_work(tiny_model: Path) -> None:
    image = noise(112, 112, 3)
    for _ in range(10):
        purifier = Purifier(tiny_model, threads=1)
        expected = purifier.purify(image)
        start = threading.Barrier(9)

        def work(purifier: Purifier = purifier, start: threading.Barrier = start) -> list[Array]:
            results = []
            start.wait(60)
            with contextlib.suppress(ModelError):
                while True:
                    results.append(purifier.purify(image))
            return results

        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(work) for _ in range(8)]
            start.wait(60)
            purifier.close()
            for future in futures:
                for got in future.result():
                    np.testing.assert_array_equal(got, expected)


def test_pickle(tiny_model: Path) -> None:
    purifier = Purifier(str(tiny_model), threads=1, mask="fixed")
    again = pickle.loads(pickle.dumps(purifier))
    image = noise(112, 112, 3)
    assert again.info == purifier.info
    np.testing.assert_array_equal(again.purify(image), purifier.purify(image))


def test_pickle_of_a_file_that_changed(
    tmp_path: Path, tiny_model: Path, invert_model: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model.read_bytes())
    pickled = pickle.dumps(Purifier(path))
    path.write_bytes(invert_model.read_bytes())
    with pytest.raises(ModelChecksumError, match="changed"):
        pickle.loads(pickled)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes(invert: Purifier, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    image = noise(112, 112, 3)
    expected = invert.purify(image)
    with multiprocessing.get_context(method).Pool(1) as pool:
        in_child = pool.apply_async(purify_elsewhere, (invert, image)).get(timeout=60)
    np.testing.assert_array_equal(in_child, expected)
    np.testing.assert_array_equal(invert.purify(image), expected)


def fork_and_purify(purifier: Purifier, image: Array, answer: object) -> None:
    """Use the parent's own object, which a fork (unlike a pickle) hands over as it is."""
    answer.send(purifier.purify(image))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
def test_a_forked_child_opens_its_own_session(tiny_model: Path) -> None:
    purifier = Purifier(tiny_model, threads=4)
    image = noise(112, 112, 3)
    expected = purifier.purify(image)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=fork_and_purify, args=(purifier, image, theirs))
    child.start()
    assert ours.poll(60)
    np.testing.assert_array_equal(ours.recv(), expected)
    child.join(60)
    assert child.exitcode == 0


def test_close(invert_model: Path) -> None:
    with Purifier(invert_model) as purifier:
        purifier.purify(noise(112, 112, 3))
    with pytest.raises(ModelError, match="closed"):
        purifier.purify(noise(112, 112, 3))


def test_repr_names_model_and_mask(tiny: Purifier) -> None:
    assert repr(tiny) == "Purifier('tiny', mask='expected')"


def test_a_file_of_ones_own_may_bring_its_threshold(tiny_model: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_model)
    helper.set_model_props(model, {"score_threshold": "0.75"})
    onnx.save(model, tmp_path / "mine.onnx")
    purifier = Purifier(tmp_path / "mine.onnx")
    assert purifier.info.score_threshold == 0.75
    found = purifier.inspect(np.zeros((112, 112, 3), np.uint8))
    assert found.suspicious == (found.score >= 0.75)
    assert Purifier([tmp_path / "mine.onnx", tiny_model]).info.score_threshold == 1.0


OPTION = st.none() | st.integers(-2, 3) | st.text(max_size=3) | st.lists(st.text(max_size=2))


@settings(max_examples=200, deadline=None)
@given(model=OPTION, providers=OPTION, threads=OPTION, mask=OPTION, budget=OPTION, affinity=OPTION)
def test_any_options_open_a_purifier_or_are_refused(
    tiny_model: Path, model: object, **options: object
) -> None:
    with contextlib.suppress(FacePurifyError):
        Purifier(model, **options)
    with contextlib.suppress(FacePurifyError):
        Purifier(tiny_model, **options)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, about numbers that are none
@settings(max_examples=100, deadline=None)
@given(image=ANYTHING)
def test_anything_reaches_a_wrapped_recognizer_purified_or_not_at_all(
    tiny: Purifier, image: object
) -> None:
    seen: list[object] = []
    with contextlib.suppress(FacePurifyError):
        tiny.wrap(seen.append)(image)
        (got,) = seen
        assert type(got) is type(image)
