"""Stages of a teacher, and a student that learns them one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.train.facenet import FaceNet
from facepurify.train.faces import FaceSet
from facepurify.train.recognizer import DistillRecipe, distill, export_recognizer
from facepurify.train.stagewise import StageTeacher, stage_losses

WIDTHS, DEPTHS = (8, 12, 16), (1, 1, 1)


@pytest.fixture(scope="module")
def net() -> FaceNet:
    torch.manual_seed(3)
    net = FaceNet(16, WIDTHS, DEPTHS)
    with torch.no_grad():  # running averages as of a network that was trained
        for _ in range(20):
            net(torch.rand(8, 3, 112, 112) * 2 - 1)
    return net.eval()


@pytest.fixture(scope="module")
def teacher(net: FaceNet, tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    export_recognizer(net, path)
    return Recognizer.from_onnx(path)


def test_a_teacher_shows_what_its_stages_give(net: FaceNet, teacher: Recognizer) -> None:
    x = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    shown = StageTeacher(teacher, net.shapes()).show(x)
    expected = [x * 2 - 1]
    for stage in net.stages:
        expected.append(stage(expected[-1]))
    for got, wanted in zip(shown[:-1], expected[1:], strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shown[-1], teacher.embed(x))


def test_looking_leaves_no_hook(net: FaceNet, teacher: Recognizer) -> None:
    StageTeacher(teacher, net.shapes()).show(torch.rand(1, 3, 112, 112))
    assert not any(module._forward_hooks for module in teacher.net.modules())


def test_a_student_that_is_the_teacher_gets_nothing_wrong(
    net: FaceNet, teacher: Recognizer
) -> None:
    x = torch.rand(4, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    shown = StageTeacher(teacher, net.shapes()).show(x)
    losses = stage_losses([*net.stages, net.embedding], x * 2 - 1, shown)
    assert float(torch.stack(losses).max().detach()) < 1e-5


def test_a_map_is_judged_by_the_share_of_its_variance_that_is_unexplained() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(2, [[[[0.5]], [[3.0]]]], (5, 2, 4, 4))
    got = wanted + rng.normal(0, 0.2, wanted.shape)
    embedding = rng.normal(size=(5, 3))
    unit = rng.normal(size=(5, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    variance = wanted.var(axis=(0, 2, 3), ddof=1)[:, None, None]
    cosine = (embedding * unit).sum(1) / np.linalg.norm(embedding, axis=1)
    stages = [torch.nn.Identity(), torch.nn.Identity()]
    # An identity gives on what it was given: first the blob, then the map.
    of_map, _ = stage_losses(
        stages, torch.from_numpy(got), [torch.from_numpy(wanted), torch.from_numpy(wanted)]
    )
    (of_embedding,) = stage_losses(
        stages[:1], torch.from_numpy(embedding), [torch.from_numpy(unit)]
    )
    assert float(of_map) == pytest.approx(((got - wanted) ** 2 / variance).mean())
    assert float(of_embedding) == pytest.approx(1 - cosine.mean())


def test_a_teacher_of_another_layout_is_refused(teacher: Recognizer) -> None:
    with pytest.raises(OptionError, match=r"a map of 99 x 28 x 28 .* teacher has none"):
        StageTeacher(teacher, [(99, 28, 28)])


def test_a_student_learns_its_stages_first_and_then_the_whole(
    teacher: Recognizer, faces: FaceSet, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    student = FaceNet(16, WIDTHS, DEPTHS)
    recipe = DistillRecipe(steps=60, batch=8, rate=5e-3, stagewise=0.75)
    cosine = distill(student, teacher, faces, recipe, tmp_path / "run", cache=tmp_path)
    assert -1 <= cosine <= 1
    log = np.genfromtxt(tmp_path / "run" / "log.csv", delimiter=",", names=True)
    for name in ("stage_1", "stage_2", "stage_3"):
        assert np.isnan(log[name]).tolist() == [False] * 45 + [True] * 15
        assert np.nanmean(log[name][35:45]) < 0.8 * np.nanmean(log[name][:5])
    assert np.isnan(log["identity"]).tolist() == [True] * 45 + [False] * 15
    assert np.isfinite(log["distance"]).all()
