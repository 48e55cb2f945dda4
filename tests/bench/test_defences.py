"""Defences: the same by array and by tensor, repeatable, with a gradient that is told apart."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from facepurify import Purifier
from facepurify.bench.defences import BASELINES, Defence, PurifierDefence, get_defence
from facepurify.errors import MissingExtraError, ModelContractError, OptionError

EXACT = ["none", "grey", "gaussian1", "median3", "resize_pad100", "noise8"]
STAND_IN = ["jpeg75", "bits4", "tv0.1"]
ART = ["art:jpeg50", "art:smoothing3", "art:squeezing4", "art:tvm0.3"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth pictures with some noise, on the 8-bit grid."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 7, 7, 3)).astype(np.uint8)
    smooth = [cv2.resize(image, (112, 112), interpolation=cv2.INTER_CUBIC) for image in coarse]
    noisy = np.stack(smooth).astype(int) + rng.integers(-9, 10, (2, 112, 112, 3))
    levels = np.clip(noisy, 0, 255).astype(np.float32)
    return np.ascontiguousarray(levels.transpose(0, 3, 1, 2)) / 255


def made(name: str) -> Defence:
    if name.startswith("art:"):
        pytest.importorskip("art", reason="needs adversarial-robustness-toolbox")
    return get_defence(name)


@pytest.mark.parametrize("name", EXACT + STAND_IN + ART)
def test_array_and_tensor_agree(name: str, images: np.ndarray) -> None:
    defence = made(name)
    before = images.copy()
    purified = defence.purify(images, 3)
    np.testing.assert_array_equal(images, before)
    assert purified.shape == images.shape
    assert purified.dtype == np.float32
    assert purified.min() >= 0
    assert purified.max() <= 1
    x = torch.from_numpy(images).requires_grad_()
    seen = defence.differentiable(x, 3)
    np.testing.assert_allclose(seen.detach().numpy(), purified, atol=1e-6)
    (gradient,) = torch.autograd.grad(seen.sum(), x)
    assert gradient.abs().sum((1, 2, 3)).min() > 0
    assert defence.gradient == ("exact" if name in EXACT else "BPDA (identity)")
    both, score = defence.purify_and_score(images, 3)
    np.testing.assert_array_equal(both, purified)
    assert score is None


@pytest.mark.parametrize("name", EXACT + STAND_IN + ART)
def test_names_and_draws(name: str, images: np.ndarray) -> None:
    defence = made(name)
    assert defence.name == name
    assert name in defence.key()
    np.testing.assert_array_equal(defence.purify(images, 1), defence.purify(images, 1))
    changed = not np.array_equal(defence.purify(images, 1), defence.purify(images, 2))
    assert changed == defence.random == (name in ("resize_pad100", "noise8", "art:tvm0.3"))


def test_baselines_are_all_there() -> None:
    assert [get_defence(name).name for name in BASELINES] == list(BASELINES)


def test_blurs_are_those_of_opencv(images: np.ndarray) -> None:
    levels = np.rint(images[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    median = get_defence("median5").purify(images)[0].transpose(1, 2, 0) * 255
    # OpenCV repeats the border, ours mirrors it.
    np.testing.assert_allclose(median[2:-2, 2:-2], cv2.medianBlur(levels, 5)[2:-2, 2:-2], atol=1e-3)
    gaussian = get_defence("gaussian1.5").purify(images)[0].transpose(1, 2, 0) * 255
    expected = cv2.GaussianBlur(levels.astype(np.float32), (11, 11), 1.5)
    np.testing.assert_allclose(gaussian, expected, atol=0.01)


def test_jpeg_is_that_of_opencv_and_pillow(images: np.ndarray) -> None:
    levels = np.rint(images[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    ours = get_defence("jpeg50").purify(images)[0].transpose(1, 2, 0) * 255
    _, data = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])
    np.testing.assert_allclose(ours, cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1], atol=1e-3)
    art = made("art:jpeg50").purify(images)[0].transpose(1, 2, 0) * 255
    assert np.abs(ours - art).mean() < 1


def test_grey_and_bits(images: np.ndarray) -> None:
    grey = get_defence("grey").purify(images)
    np.testing.assert_array_equal(grey[:, 0], grey[:, 2])
    np.testing.assert_allclose(
        grey[:, 0], images.transpose(0, 2, 3, 1) @ [0.299, 0.587, 0.114], atol=1e-6
    )
    bits = get_defence("bits4").purify(images)
    assert len(np.unique(bits)) <= 16
    np.testing.assert_allclose(made("art:squeezing4").purify(images), bits, atol=1e-6)


def test_noise_is_of_the_standard_deviation_in_its_name(images: np.ndarray) -> None:
    grey = np.full((2, 3, 112, 112), 0.5, np.float32)
    noise = 255 * (get_defence("noise8").purify(grey, 5) - grey)
    assert noise.std(axis=(1, 2, 3)) == pytest.approx([8, 8], rel=0.02)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.03
    assert get_defence("noise64").purify(images).min() >= 0


def test_art_leaves_numpys_generator_alone(images: np.ndarray) -> None:
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.rand(3)  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    made("art:tvm").purify(images, 5)
    np.testing.assert_array_equal(np.random.rand(3), expected)  # noqa: NPY002


def test_without_art_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, images: np.ndarray
) -> None:
    monkeypatch.setitem(sys.modules, "art", None)
    monkeypatch.setitem(sys.modules, "art.defences", None)
    with pytest.raises(MissingExtraError, match=r"facepurify\[art\]"):
        get_defence("art:jpeg").purify(images)


@pytest.mark.parametrize(
    "name",
    ["jpeg0", "jpeg101", "jpeg7.5", "bits9", "median4", "gaussian0", "grey3", "resize_pad112",
     "noise0", "art:nothing", "unheard", "none:sampled"],
)  # fmt: skip
def test_unknown_names_and_strengths_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="expected"):
        get_defence(name)


def test_a_purifier_is_judged_as_its_users_run_it(tiny_model: Path, images: np.ndarray) -> None:
    defence = get_defence(str(tiny_model))
    purifier = Purifier(tiny_model)
    expected = purifier.purify_canonical(images)
    assert defence.name == "tiny"
    assert defence.gradient == "exact"
    assert not defence.random
    assert purifier.info.sha256 in defence.key()
    np.testing.assert_array_equal(defence.purify(images), expected.images)
    purified, score = defence.purify_and_score(images)
    np.testing.assert_array_equal(purified, expected.images)
    np.testing.assert_array_equal(score, expected.score)


def test_a_purifiers_gradient_is_that_of_its_output(tiny_model: Path) -> None:
    defence = get_defence(str(tiny_model))
    x = torch.full((1, 3, 112, 112), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(defence.differentiable(x).sum(), x)
    step = 0.01
    for channel in range(3):
        images = x.detach().numpy().copy()
        images[:, channel] += step
        change = (defence.purify(images) - defence.purify(x.detach().numpy())).sum(dtype=float)
        np.testing.assert_allclose(gradient[0, channel].sum() * step, change, rtol=0.02)


@pytest.mark.parametrize("mask", ["fixed", "sampled"])
def test_hard_masks_have_the_expected_one_stand_in(
    tiny_model: Path, images: np.ndarray, mask: str
) -> None:
    defence, expected = get_defence(f"{tiny_model}:{mask}"), get_defence(str(tiny_model))
    assert defence.name == f"tiny:{mask}"
    assert defence.gradient == "BPDA (expected mask)"
    assert defence.random == (mask == "sampled")
    assert defence.key() != expected.key()
    x = torch.from_numpy(images).requires_grad_()
    seen = defence.differentiable(x, 7)
    np.testing.assert_allclose(seen.detach().numpy(), defence.purify(images, 7), atol=1e-6)
    (gradient,) = torch.autograd.grad(seen.sum(), x)
    (smooth,) = torch.autograd.grad(expected.differentiable(x).sum(), x)
    torch.testing.assert_close(gradient, smooth)


def test_without_an_antibody(invert_model: Path, images: np.ndarray) -> None:
    defence = get_defence(str(invert_model))
    x = torch.from_numpy(images).requires_grad_()
    (gradient,) = torch.autograd.grad(defence.differentiable(x).sum(), x)
    assert (gradient == -1).all()
    assert defence.purify_and_score(images)[1] is None


def test_an_operator_without_a_gradient_is_told(
    tmp_path: Path, images: np.ndarray, build_model: Callable[..., onnx.ModelProto]
) -> None:
    node = helper.make_node("LpNormalization", ["image"], ["purified"], axis=1, p=2)
    path = tmp_path / "odd.onnx"
    path.write_bytes(build_model([node]).SerializeToString())
    defence = get_defence(str(path))
    assert "identity" in defence.gradient
    assert "LpNormalization" in defence.gradient
    x = torch.from_numpy(images).requires_grad_()
    seen = defence.differentiable(x)
    np.testing.assert_allclose(seen.detach().numpy(), defence.purify(images), atol=1e-6)
    assert (torch.autograd.grad(seen.sum(), x)[0] == 1).all()


def test_a_wrong_conversion_is_refused(invert_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facepurify.bench.defences.to_torch", lambda model: torch.nn.Identity())
    with pytest.raises(ModelContractError, match="agree"):
        PurifierDefence(str(invert_model))


def test_a_chain_is_judged_whole_and_its_gradient_goes_through_all(
    tiny_model: Path, invert_model: Path, images: np.ndarray
) -> None:
    defence = get_defence(f"{invert_model}+{tiny_model}")
    assert defence.name == "invert+tiny"
    assert defence.gradient == "exact"
    both = Purifier([invert_model, tiny_model])
    assert both.info.sha256 in defence.key()
    np.testing.assert_array_equal(defence.purify(images), both.purify_canonical(images).images)
    first, second = get_defence(str(invert_model)), get_defence(str(tiny_model))
    x = torch.from_numpy(images).requires_grad_()
    seen = defence.differentiable(x)
    np.testing.assert_allclose(seen.detach().numpy(), defence.purify(images), atol=1e-6)
    (gradient,) = torch.autograd.grad(seen.square().sum(), x)
    (expected,) = torch.autograd.grad(
        second.differentiable(first.differentiable(x)).square().sum(), x
    )
    torch.testing.assert_close(gradient, expected)
    sampled = get_defence(f"{invert_model}+{tiny_model}:sampled")
    assert sampled.random
    assert sampled.gradient == "BPDA (expected mask)"
    with pytest.raises(OptionError, match="expected"):
        get_defence(f"{invert_model}+unheard")


@pytest.mark.parametrize("name", ["pin", "uddn"])
def test_the_alarm_is_the_scores_logit_above_its_threshold(name: str, images: np.ndarray) -> None:
    defence = get_defence(name)
    faces = np.concatenate([images, np.full_like(images[:1], 0.5), images[:1] * 0.2 + 0.4])
    x = torch.from_numpy(faces).requires_grad_()
    alarm = defence.alarm(x)
    (gradient,) = torch.autograd.grad(alarm.sum(), x)
    # Also where the score itself is 1, and the sigmoid has no gradient.
    assert (gradient != 0).flatten(1).any(1).all()
    score = defence.purify_and_score(faces)[1]
    assert score is not None
    threshold = torch.logit(torch.tensor(defence.score_threshold, dtype=torch.float64))
    ours = torch.sigmoid(alarm.detach().double() + threshold)
    np.testing.assert_allclose(ours, score, atol=1e-4)


def test_a_chains_alarm_is_that_of_its_most_suspicious_model(images: np.ndarray) -> None:
    x = torch.from_numpy(images)
    first, second = get_defence("uddn"), get_defence("pin")
    with torch.no_grad():
        expected = torch.maximum(first.alarm(x), second.alarm(first.differentiable(x)))
        torch.testing.assert_close(get_defence("uddn+pin").alarm(x), expected)


def test_without_a_calibrated_score_there_is_no_alarm(
    tiny_model: Path, invert_model: Path, images: np.ndarray
) -> None:
    for name in ("none", str(invert_model), str(tiny_model)):
        defence = get_defence(name)
        assert defence.score_threshold is None
        with pytest.raises(OptionError, match="calibrated score"):
            defence.alarm(torch.from_numpy(images))
