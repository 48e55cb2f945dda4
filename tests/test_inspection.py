from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepurify.inspection import antibody, compare


@given(st.integers(0, 2**32 - 1), st.sampled_from(["uint8", "float64"]))
def test_picture_times_gain_is_what_was_removed(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    image, purified = (
        rng.integers(0, 256, (2, 9, 7, 3)) / (255 if dtype != "uint8" else 1)
    ).astype(dtype)
    found = compare(image, purified)
    assert found.removed.dtype == np.float32
    np.testing.assert_allclose(
        found.removed, purified.astype(float) - image.astype(float), atol=1e-6
    )
    shown = (found.removed_picture.astype(float) - 128) / found.removed_gain
    np.testing.assert_allclose(shown, found.removed, atol=0.51 / found.removed_gain)


def test_nothing_removed() -> None:
    image = np.full((4, 4), 0.5)
    found = compare(image, image)
    assert (found.removed_picture == 128).all()
    assert found.removed_gain == 1


@pytest.mark.parametrize(
    ("score", "threshold", "suspicious"),
    [(0.5, 0.5, True), (0.49, 0.5, False), (None, 0.5, None), (0.5, None, None)],
)
def test_suspicious_from_the_threshold_on(
    score: float | None, threshold: float | None, suspicious: bool | None
) -> None:
    image = np.zeros((4, 4), np.uint8)
    assert compare(image, image, score=score, threshold=threshold).suspicious is suspicious


def test_antibodies() -> None:
    p = np.array([[0.1, 0.5, 0.9], [0.6, 0.6, 0.6]], np.float32)
    u = np.array([[0.05, 0.5, 0.95]], np.float32)
    assert antibody(p, "expected", None) is p
    assert antibody(p, "fixed", None).tolist() == [[0, 0, 1], [0, 0, 0]]
    assert antibody(p, "sampled", u).tolist() == [[1, 0, 0], [1, 1, 0]]
