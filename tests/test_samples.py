"""The faces that other packages ship."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from facepurify import ARCFACE_TEMPLATE, DataError, MissingExtraError
from facepurify.geometry import similarity
from facepurify.imagefiles import read_image
from facepurify.samples import sample_faces


@pytest.fixture
def only(monkeypatch):
    """Pretend that no other package is installed than the ones named."""

    def hide(*packages):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: find(name) if name in packages else None
        )

    return hide


def test_landmarks_lie_on_faces():
    pytest.importorskip("insightface", reason="needs insightface's bundled photos")
    faces = sample_faces()
    assert len({face.name for face in faces}) == len(faces) >= 7
    for face in faces:
        height, width = read_image(face.path).pixels.shape[:2]
        assert (face.landmarks > 0).all()
        assert (face.landmarks < [width, height]).all()
        matrix = similarity(face.landmarks)
        placed = face.landmarks @ matrix[:, :2].T + matrix[:, 2]
        assert np.abs(placed - ARCFACE_TEMPLATE).max() < 15, face.name


def test_a_package_that_is_not_installed_is_left_out(only):
    pytest.importorskip("insightface", reason="needs insightface's bundled photos")
    only("insightface")
    assert {face.path.name for face in sample_faces()} == {"t1.jpg", "Tom_Hanks_54745.png"}


def test_no_package_at_all(only):
    only()
    with pytest.raises(MissingExtraError, match=r"facepurify\[insightface\]"):
        sample_faces()


def test_another_photo_of_that_name(monkeypatch, tmp_path):
    fake = importlib.util.spec_from_loader(
        "insightface", None, origin=str(tmp_path / "__init__.py")
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: fake)
    with pytest.raises(DataError, match="No such file"):
        sample_faces()
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "t1.jpg").write_bytes(b"another photo")
    with pytest.raises(DataError, match="its landmarks are known for that file only"):
        sample_faces()
