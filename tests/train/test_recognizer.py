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


def test_small_faces_come_first_and_the_student_nears_its_teacher(
    guide: Recognizer, faces: FaceSet, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = FaceNet(guide.dim, (8, 8, 8), (1, 1, 1))
    sides = []
    net.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    recipe = DistillRecipe(steps=100, batch=32, identity=0, small=0.6)
    cosine = distill(net, guide, faces, recipe, tmp_path / "run", cache=tmp_path)
    assert -1 <= cosine <= 1
    assert sides[:100] == [80] * 60 + [112] * 40
    log = np.genfromtxt(tmp_path / "run" / "log.csv", delimiter=",", names=True)
    first = log["distance"][:10].mean()
    assert log["distance"][50:60].mean() < first - 0.1
    assert log["distance"][90:].mean() < first - 0.1


def test_a_small_face_meets_the_same_weights() -> None:
    net = FaceNet(16, (8, 8, 8), (1, 1, 1)).eval()
    net.features = torch.nn.AvgPool2d(16)  # features that are the same at any size
    net.pool = torch.nn.Identity()
    net.embedding = torch.nn.Identity()
    slope = torch.linspace(-1, 1, 112).expand(1, 3, 112, 112)
    small = torch.nn.functional.interpolate(slope, size=80, mode="bilinear", antialias=True)
    torch.testing.assert_close(net(small)[..., 1:-1], net(slope)[..., 1:-1], atol=0.02, rtol=0)


def test_a_wrong_share_is_refused() -> None:
    with pytest.raises(OptionError, match="small from 0 to 1"):
        DistillRecipe(small=1.5)


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
