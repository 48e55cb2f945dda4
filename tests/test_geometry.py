from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from facepurify.errors import (
    ImageShapeError,
    LandmarkDegenerateError,
    LandmarkOutsideError,
    LandmarkShapeError,
)
from facepurify.geometry import ARCFACE_TEMPLATE, align, as_faces, cut, paste, similarity
from facepurify.images import Array


def placed(scale: float, degrees: float, x: float, y: float) -> Array:
    """The template's points scaled, turned about its centre, and centred at (x, y)."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * (ARCFACE_TEMPLATE - 55.5) @ turn.T + [x, y]


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 40),
    st.floats(-180, 180),
    st.floats(-2000, 2000),
    st.floats(0, 6),
)
def test_similarity_is_that_of_umeyama(
    seed: int, scale: float, degrees: float, shift: float, noise: float
) -> None:
    jitter = np.random.default_rng(seed).normal(size=(5, 2)) * noise * scale
    landmarks = placed(scale, degrees, shift, -shift) + jitter
    expected = SimilarityTransform.from_estimate(landmarks, ARCFACE_TEMPLATE)
    assume(bool(expected))
    np.testing.assert_allclose(similarity(landmarks), expected.params[:2], rtol=1e-6, atol=1e-6)


@given(st.floats(0.05, 40), st.floats(-180, 180), st.floats(-2000, 2000))
def test_similarity_of_a_placed_template_is_exact(scale: float, degrees: float, x: float) -> None:
    landmarks = placed(scale, degrees, x, 7)
    points = np.column_stack([landmarks, np.ones(5)]) @ similarity(landmarks).T
    np.testing.assert_allclose(points, ARCFACE_TEMPLATE, atol=1e-8)


def test_align_is_insightface_norm_crop(photo: Array, landmarks: Array) -> None:
    face_align = pytest.importorskip("insightface.utils.face_align")
    for face in landmarks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it calls a deprecated function
            expected = face_align.norm_crop(photo, face)
        # the estimates differ in the last bits, which may tip the rounding of a pixel
        difference = np.abs(align(photo, face).astype(int) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


def test_a_huge_face_is_averaged_not_sampled() -> None:
    fine = np.indices((1120, 1120)).sum(0).astype(np.uint8) % 2 * 200
    crop = align(fine, placed(10, 0, 559.5, 559.5))
    assert np.abs(crop[8:-8, 8:-8].astype(int) - 100).max() <= 12


def test_averaging_keeps_the_place() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 1120), (1120, 1120)).copy()
    crop = align(ramp, placed(10, 0, 559.5, 559.5))
    expected = np.interp(np.arange(112) * 10 + 4.5, np.arange(1120), ramp[0])
    np.testing.assert_allclose(crop[50], expected, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.08, 6),
    st.floats(-180, 180),
    st.floats(0, 299),
    st.floats(0, 199),
    st.booleans(),
    st.sampled_from(["uint8", "float32", "float64"]),
)
def test_paste_changes_the_square_only(
    scale: float, degrees: float, x: float, y: float, grey: bool, dtype: str
) -> None:
    matrix = similarity(placed(scale, degrees, x, y))
    shape = (200, 300) if grey else (200, 300, 3)
    photo = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    full: float = 255
    if dtype != "uint8":
        photo, full = photo / np.asarray(255, dtype), 1
    before = photo.copy()
    crop = np.full((112, 112, *shape[2:]), full, dtype)
    paste(photo, crop, matrix)
    rows, columns = np.indices((200, 300))
    u, v = np.moveaxis(np.stack([columns, rows, np.ones((200, 300))], -1) @ matrix.T, -1, 0)
    slack = 0.05 + 1 / scale  # OpenCV's coordinates; averaging reaches into the next pixel
    outside = (np.minimum(u, v) < -slack) | (np.maximum(u, v) > 111 + slack)
    inside = (np.minimum(u, v) > 4 + slack) & (np.maximum(u, v) < 107 - slack)
    np.testing.assert_array_equal(photo[outside], before[outside])
    np.testing.assert_allclose(photo[inside], full, rtol=1e-6)
    assert photo.max() <= full


def test_cut_and_paste_of_an_unchanged_face_changes_little(photo: Array, landmarks: Array) -> None:
    for face in landmarks:
        pasted = photo.copy()
        matrix = similarity(face)
        paste(pasted, cut(photo, matrix), matrix)
        changed = (pasted != photo).any(2)
        assert changed.any()
        assert cv2.PSNR(pasted[changed], photo[changed]) > 28  # resampled twice, but in place


def test_a_face_of_a_few_pixels() -> None:
    photo = np.zeros((40, 40, 3), np.uint8)
    matrix = similarity(placed(0.03, 20, 20, 20))
    paste(photo, np.full((112, 112, 3), 255, np.uint8), matrix)
    assert photo[20, 20].tolist() == [255, 255, 255]
    assert (photo > 0).all(2).sum() < 25


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 50.0),
        np.full((5, 2), 50.0) + np.eye(5, 2) * 1e-9,
        np.column_stack([np.arange(5.0), 2 * np.arange(5.0)]) * 9,
        np.column_stack([ARCFACE_TEMPLATE[:, 0], np.full(5, 60.0)]),
        ARCFACE_TEMPLATE * [-1, 1] + [112, 0],
        ARCFACE_TEMPLATE[[1, 0, 2, 4, 3]],
        placed(0.004, 0, 55, 55),
        np.vstack([ARCFACE_TEMPLATE[:4], [1e7, 1e7]]),
        np.vstack([ARCFACE_TEMPLATE[:4], [np.nan, 0]]),
        np.vstack([ARCFACE_TEMPLATE[:4], [np.inf, 0]]),
        np.vstack([ARCFACE_TEMPLATE[:4], [1e300, -1e300]]),
    ],
    ids=[
        "coincident",
        "almost coincident",
        "collinear",
        "flat",
        "mirrored",
        "left and right swapped",
        "below a pixel",
        "too far",
        "NaN",
        "infinite",
        "overflowing",
    ],
)
def test_degenerate(landmarks: Array) -> None:
    with pytest.raises(LandmarkDegenerateError):
        align(np.zeros((112, 112, 3), np.uint8), landmarks)


@pytest.mark.parametrize("shift", [(500, 0), (-200, 0), (0, 400), (0, -130)])
def test_outside(shift: tuple[float, float]) -> None:
    with pytest.raises(LandmarkOutsideError, match="250x200"):
        align(np.zeros((200, 250), np.uint8), ARCFACE_TEMPLATE + shift)


@pytest.mark.parametrize(
    "landmarks",
    [None, 3, "face", [[1, 2], [3]], np.zeros((4, 2)), np.zeros((2, 5)), np.zeros((1, 1, 5, 2))],
)
def test_wrong_shape(landmarks: object) -> None:
    with pytest.raises(LandmarkShapeError):
        align(np.zeros((112, 112, 3), np.uint8), landmarks)


def test_align_takes_one_face_of_one_photo() -> None:
    photo = np.zeros((112, 112, 3), np.uint8)
    with pytest.raises(LandmarkShapeError, match="2 faces"):
        align(photo, np.stack([ARCFACE_TEMPLATE] * 2))
    with pytest.raises(ImageShapeError):
        align(photo[None], ARCFACE_TEMPLATE)


def test_a_number_beyond_every_float() -> None:
    with pytest.raises(LandmarkShapeError, match="too large"):
        as_faces([[10**400, 0]] * 5, np.zeros((9, 9), np.uint8))


def test_floats_stay_in_their_range() -> None:
    white = np.ones((900, 900, 3))
    for scale in np.linspace(3, 7, 40):
        crop = align(white, placed(scale, 20 * scale, 450, 450))
        assert 0 <= crop.min() <= crop.max() <= 1


@pytest.mark.parametrize("none", [[], np.zeros((0, 5, 2))])
def test_no_faces(none: object) -> None:
    assert as_faces(none, np.zeros((9, 9), np.uint8)) == []


def test_a_face_across_the_border_is_inside() -> None:
    photo = np.full((100, 100), 255, np.uint8)
    crop = align(photo, placed(1, 0, 0, 50))
    assert crop[:, :50].max() == 0
    assert crop[20:90, 60:].min() == 255


def test_the_template_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        ARCFACE_TEMPLATE[0] = 0
