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
from facepurify.train.stagewise import StageTeacher, run_stages, unexplained

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


def test_stages_are_given_what_the_teacher_gave_or_their_own() -> None:
    stages = [torch.nn.Linear(1, 1, bias=False) for _ in range(3)]
    for stage, factor in zip(stages, (2.0, 3.0, 5.0), strict=True):
        torch.nn.init.constant_(stage.weight, factor)
    one, shown = torch.ones(1, 1), [torch.full((1, 1), value) for value in (10.0, 100.0, 1000.0)]
    assert [float(output.detach()) for output in run_stages(stages, one)] == [2, 6, 30]
    assert [float(output.detach()) for output in run_stages(stages, one, shown)] == [2, 30, 500]


def test_an_imitation_is_judged_by_the_share_of_variance_that_it_leaves() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(2, [[[[0.5]], [[3.0]]]], (5, 2, 4, 4))
    got = wanted + rng.normal(0, 0.2, wanted.shape)
    variance = wanted.var(axis=(0, 2, 3), ddof=1)[:, None, None]
    share = float(unexplained(torch.from_numpy(got), torch.from_numpy(wanted)))
    assert share == pytest.approx(((got - wanted) ** 2 / variance).mean())
    assert float(unexplained(torch.from_numpy(wanted), torch.from_numpy(wanted))) == 0


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
    assert np.isfinite(log["distance"]).all()


def test_hints_keep_the_stages_near_the_teachers_in_their_places(
    teacher: Recognizer, faces: FaceSet, tmp_path: Path
) -> None:
    left = []
    for hints in (0.0, 1.0):
        torch.manual_seed(0)
        student = FaceNet(16, WIDTHS, DEPTHS)
        recipe = DistillRecipe(steps=40, batch=8, rate=5e-3, hints=hints)
        distill(student, teacher, faces, recipe, tmp_path / str(hints), cache=tmp_path)
        x = torch.rand(8, 3, 112, 112, generator=torch.Generator().manual_seed(0))
        shown = StageTeacher(teacher, student.shapes()).show(x)
        with torch.no_grad():
            outputs = run_stages(student.stages, x * 2 - 1)
        left.append([float(unexplained(*maps)) for maps in zip(outputs, shown, strict=False)])
    assert all(with_hints < without for without, with_hints in zip(*left, strict=True))
