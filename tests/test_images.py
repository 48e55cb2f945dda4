from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facepurify.errors import (
    ImageShapeError,
    ImageTypeError,
    ImageValueError,
    OptionError,
)
from facepurify.images import (
    Array,
    as_images,
    check_canonical,
    check_colour,
    from_canonical,
    resize,
    store,
    to_canonical,
)

SEEDS = st.integers(0, 2**32 - 1)


def random_crop(seed: int, dtype: str, grey: bool) -> Array:
    shape = (112, 112) if grey else (112, 112, 3)
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.random(shape).astype(np.float32).astype(dtype)  # what float32 can hold


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(["uint8", "float32", "float64"]), st.sampled_from(["bgr", "rgb"]))
def test_there_and_back_is_the_identity(seed: int, dtype: str, color: str) -> None:
    crop = random_crop(seed, dtype, grey=False)
    (back,) = from_canonical(to_canonical([crop], color), [crop], color)
    assert back.dtype == crop.dtype
    np.testing.assert_array_equal(back, crop)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(["uint8", "float32", "float64"]))
def test_grey_there_and_back(seed: int, dtype: str) -> None:
    crop = random_crop(seed, dtype, grey=True)
    (back,) = from_canonical(to_canonical([crop], "bgr"), [crop], "bgr")
    assert back.dtype == crop.dtype
    assert back.shape == (112, 112)
    if dtype == "uint8":
        np.testing.assert_array_equal(back, crop)
    else:  # the luma's weights sum to 1 within float32
        np.testing.assert_allclose(back, crop, atol=2e-7)


def test_canonical_is_rgb_planes_in_the_unit_range() -> None:
    crop = np.zeros((112, 112, 3), np.uint8)
    crop[..., 2] = 255  # red, in BGR
    batch = to_canonical([crop, crop[..., ::-1]], "bgr")
    assert batch.dtype == np.float32
    assert batch[0, :, 5, 7].tolist() == [1, 0, 0]
    assert batch[1, :, 5, 7].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(to_canonical([crop], "rgb")[0], batch[1])


def test_luma_is_that_of_opencv() -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (112, 112, 3), np.uint8)
    batch = to_canonical([rgb], "rgb")
    (grey,) = from_canonical(batch, [np.empty((112, 112), np.uint8)], "rgb")
    expected = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    assert np.abs(grey.astype(int) - expected).max() <= 1  # OpenCV works in fixed point


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32)))
def test_store_rounds_halves_to_even_and_clips(values: Array) -> None:
    stored = store(values, np.dtype(np.uint8))
    assert stored.tolist() == [min(max(round(v), 0), 255) for v in values.tolist()]
    unit = store(values, np.dtype(np.float64))
    assert unit.dtype == np.float64
    assert unit.min() >= 0
    assert unit.max() <= 1


def test_resize_averages_when_it_shrinks() -> None:
    board = np.indices((224, 224)).sum(0).astype(np.uint8) % 2 * 200
    np.testing.assert_array_equal(resize(board, 112, 112), np.full((112, 112), 100))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resize_keeps_floats_in_their_range(dtype: str) -> None:
    crop = np.ones((112, 112, 3), dtype)
    for side in range(20, 400, 3):
        as_images(resize(crop, side, side * 2 // 3))
        as_images(resize(np.ones((side, side + 3, 3), dtype), 112, 112))


def test_resize_averages_the_side_that_shrinks_where_the_other_grows() -> None:
    stripes = np.zeros((100, 1120, 3), np.uint8)
    stripes[:, ::2] = 200
    for image in (stripes, stripes.transpose(1, 0, 2)):
        np.testing.assert_array_equal(resize(image, 112, 112), np.full((112, 112, 3), 100))


def test_resize_leaves_the_right_size_alone() -> None:
    image = np.zeros((112, 112, 3), np.uint8)
    assert resize(image, 112, 112) is image


@pytest.mark.parametrize("shape", [(1, 1), (1, 300, 3), (300, 1), (2, 2, 3), (500, 40, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_resize_keeps_the_kind_at_any_size(shape: tuple[int, ...], dtype: str) -> None:
    image = np.ones(shape, dtype)
    crop = resize(image, 112, 112)
    assert crop.dtype == image.dtype
    assert crop.shape == (112, 112, *shape[2:])
    np.testing.assert_allclose(crop, 1, atol=1e-6)
    assert resize(crop, *shape[:2]).shape == shape


def test_single_images_are_views_of_the_array() -> None:
    array = np.zeros((3, 20, 30, 3), np.uint8)
    parts = as_images(array)
    assert len(parts) == 3
    assert all(np.shares_memory(part, array) for part in parts)


@pytest.mark.parametrize(
    "image",
    [None, "face.png", (np.zeros((4, 4), np.uint8),), [[1, 2], [3, 4]], [None], 3.0],
    ids=["None", "path", "tuple", "numbers", "list of None", "number"],
)
def test_not_an_array(image: object) -> None:
    with pytest.raises(ImageTypeError, match="numpy array"):
        as_images(image)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "bool", "float16", "complex64", "O", ">f4"])
def test_wrong_dtype(dtype: str) -> None:
    with pytest.raises(ImageTypeError, match="expected the image to be uint8"):
        as_images(np.zeros((112, 112, 3), dtype))
    with pytest.raises(TypeError, match="image 1 of the list"):
        as_images([np.zeros((9, 9), np.uint8), np.zeros((9, 9), dtype)])


@pytest.mark.parametrize(
    "shape",
    [(), (5,), (112, 112, 1), (112, 112, 4), (3, 112, 112), (2, 112, 112, 1), (1, 1, 9, 9, 3)],
)
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageShapeError, match="HxWx3"):
        as_images(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(0, 0), (0, 112, 3), (112, 0), (0, 112, 112, 3), (1, 0, 9, 3)])
def test_no_pixels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageShapeError, match="have pixels"):
        as_images(np.zeros(shape, np.uint8))


def test_a_subclass_is_taken_for_its_pixels() -> None:
    grey = np.full((9, 7), 0.5)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(grey)
    for images in (as_images(matrix), as_images([matrix])):
        assert type(images[0]) is np.ndarray
    masked = np.ma.masked_array(np.full((9, 7), np.nan), mask=True)
    with pytest.raises(ImageValueError, match="got nan to nan"):
        as_images(masked)


def test_empty_list() -> None:
    with pytest.raises(ImageShapeError, match="empty list"):
        as_images([])


def test_an_array_of_images_within_a_list() -> None:
    with pytest.raises(ImageShapeError, match="image 0 of the list"):
        as_images([np.zeros((2, 9, 9, 3), np.uint8)])


@pytest.mark.parametrize("shape", [(32_767, 1), (1, 32_767, 3), (1, 32_767, 1, 3)])
def test_sides_beyond_opencv(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageShapeError, match="at most 32766"):
        as_images(np.zeros(shape, np.uint8))


def test_the_longest_side_still_resizes() -> None:
    assert resize(np.zeros((32_766, 2, 3), np.uint8), 112, 112).shape == (112, 112, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0])
def test_floats_outside_the_unit_range(value: float) -> None:
    image = np.full((20, 20, 3), 0.5, np.float32)
    image[3, 4, 1] = value
    with pytest.raises(ImageValueError, match=r"\[0, 1\]"):
        as_images(image)


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (np.zeros((1, 3, 112, 112)), ImageTypeError),
        ([0.0], ImageTypeError),
        (np.zeros((3, 112, 112), np.float32), ImageShapeError),
        (np.zeros((1, 112, 112, 3), np.float32), ImageShapeError),
        (np.zeros((0, 3, 112, 112), np.float32), ImageShapeError),
        (np.full((1, 3, 112, 112), 2, np.float32), ImageValueError),
        (np.full((1, 3, 112, 112), np.nan, np.float32), ImageValueError),
    ],
)
def test_not_a_canonical_batch(batch: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_canonical(batch)


def test_unknown_colour_order() -> None:
    with pytest.raises(OptionError, match="'grb'"):
        check_colour("grb")
