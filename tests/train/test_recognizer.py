"""Distilling a recognizer of our own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError, OptionError
from facepurify.train.facenet import FaceNet
from facepurify.train.faces import FaceSet
from facepurify.train.recognizer import DistillRecipe, distill, teach


def test_the_student_nears_its_teacher(guide: Recognizer, faces: FaceSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = FaceNet(guide.dim, (8, 8, 8), (1, 1, 1))
    recipe = DistillRecipe(steps=100, batch=32, identity=0)
    cosine = distill(net, guide, faces, recipe, tmp_path / "run", cache=tmp_path)
    assert -1 <= cosine <= 1
    log = np.genfromtxt(tmp_path / "run" / "log.csv", delimiter=",", names=True)
    assert log["distance"][90:].mean() < log["distance"][:10].mean() - 0.1
    assert list(log.dtype.names) == ["step", "distance", "identity"]


def test_a_wrong_share_is_refused() -> None:
    with pytest.raises(OptionError, match="stagewise from 0 to 1"):
        DistillRecipe(stagewise=1.5)


def test_without_a_held_out_face_nothing_is_begun(
    guide: Recognizer, faces: FaceSet, tmp_path: Path
) -> None:
    all_training = replace(faces, held_out=np.zeros(len(faces), bool))
    net = FaceNet(guide.dim, (8, 8, 8), (1, 1, 1))
    with pytest.raises(DataError, match="some are held out"):
        distill(net, guide, all_training, DistillRecipe(steps=1), tmp_path, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_teacher_sees_faces_of_the_same_names_anew(
    guide: Recognizer, faces: FaceSet, tmp_path: Path
) -> None:
    before = teach(guide, faces, tmp_path)
    assert np.array_equal(teach(guide, faces, tmp_path), before)
    realigned = replace(faces, images=np.asarray(faces.images)[::-1], digest="another")
    after = teach(guide, realigned, tmp_path)
    assert np.allclose(after, before[::-1], atol=1e-5)
    assert not np.allclose(after, before, atol=1e-2)
