"""The adaptive attack: through the defence, never weaker than its parts, and honest checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facepurify.bench import adaptive
from facepurify.bench.adaptive import AdaptiveAttack, Scene, defended, self_checks
from facepurify.bench.attacks import FGSM, GOALS, PGD, Goal
from facepurify.bench.defences import Defence, get_defence
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import AttackError, OptionError
from tests.bench.small_nets import random_images, recognizer_model

EPS = 8.0
COUNT = 4
SMALL = AdaptiveAttack(attacks=(FGSM(), PGD(steps=5)), draws=2)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    path = tmp_path_factory.mktemp("recognizer") / "small.onnx"
    path.write_bytes(recognizer_model().SerializeToString())
    return Recognizer.from_onnx(path, threads=1)


def scene(recognizer: Recognizer, defence: Defence, goal: Goal = "dodging") -> Scene:
    x = random_images(2 * COUNT, 112).float()
    other = x[COUNT:] if goal == "impersonation" else x[:COUNT].roll(3, dims=3)
    anchor = torch.from_numpy(recognizer.embed_numpy(other.numpy()))
    return Scene(recognizer, defence, x[:COUNT], anchor, goal)


def attacked(where: Scene, attack: AdaptiveAttack = SMALL) -> Tensor:
    return attack(where, EPS, generator=torch.Generator().manual_seed(0))


class Masked(Defence):
    """Rounds to 6 bits and claims that its gradient, zero, is exact."""

    name = "masked"

    def key(self) -> str:
        return "masked"

    def purify(self, images: np.ndarray, seed: int = 0) -> np.ndarray:
        return np.rint(images * 63).astype(np.float32) / 63

    def differentiable(self, x: Tensor, seed: int = 0) -> Tensor:
        return (x * 63).round() / 63


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", ["none", "jpeg50", "resize_pad100"])
def test_stays_in_the_ball_and_beats_its_parts(
    recognizer: Recognizer, name: str, goal: Goal
) -> None:
    where = scene(recognizer, get_defence(name), goal)
    images = attacked(where)
    change = (images - where.x) * 255
    assert torch.allclose(change, change.round(), atol=1e-3)
    assert change.abs().max() <= EPS + 1e-3
    sign = -1 if goal == "dodging" else 1
    strongest = sign * where.cosine(images, range(16))
    assert (strongest > sign * where.cosine(where.x, range(16))).all()
    if not where.defence.random:
        for part in SMALL.attacks:
            alone = attacked(where, AdaptiveAttack(attacks=(part,), draws=2))
            assert (strongest >= sign * where.cosine(alone) - 1e-6).all()


def test_repeats_itself_however_images_are_split(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = scene(recognizer, get_defence("jpeg50"))
    whole = attacked(where)
    assert torch.equal(attacked(where), whole)
    monkeypatch.setattr(adaptive, "BATCH", 3)
    # Sums in another order may flip the sign of a gradient next to zero.
    assert (attacked(where) == whole).float().mean() > 0.99


def test_random_defences_are_averaged_over_new_draws(recognizer: Recognizer) -> None:
    defence = get_defence("resize_pad100")
    x = random_images(1, 112).float()
    pipeline = defended(recognizer, defence, draws=64, generator=torch.Generator().manual_seed(0))
    mean = pipeline(x)
    assert mean.norm() < 1
    single = defended(recognizer, defence, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([single(x) for _ in range(64)])
    assert len({float(draw[0, 0]) for draw in draws}) > 32
    torch.testing.assert_close(draws.mean(0), mean, atol=0.1, rtol=0)


def test_a_defence_that_is_not_random_is_asked_once(recognizer: Recognizer) -> None:
    where = scene(recognizer, get_defence("none"))
    assert SMALL.cost(where.defence) == 6
    assert SMALL.cost(get_defence("resize_pad")) == 12
    assert where.success(where.x, -1.0, seeds=(1, 2, 3)) == 0
    assert where.success(where.x, 1.1) == 1


@pytest.mark.parametrize("goal", GOALS)
def test_checks_pass_on_an_undefended_recognizer(recognizer: Recognizer, goal: Goal) -> None:
    where = scene(recognizer, get_defence("none"), goal)
    clean = where.cosine(where.x)
    threshold = float(clean.min() - 0.05 if goal == "dodging" else clean.max() + 0.05)
    checks = self_checks(
        where, EPS, threshold=threshold, white_box=attacked(where), black_box=[where.x],
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert len(checks) == 4
    assert [check for check in checks if not check.passed] == []
    assert all(check.detail for check in checks)


def test_checks_tell_a_masked_gradient(recognizer: Recognizer) -> None:
    where = scene(recognizer, Masked())
    checks = self_checks(
        where, EPS, threshold=float(where.cosine(where.x).min()) - 0.6, white_box=where.x,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    failed = {check.name for check in checks if not check.passed}
    assert {"the gradient does not vanish", "an unbounded attack always succeeds"} <= failed


def test_checks_tell_a_black_box_that_wins(recognizer: Recognizer) -> None:
    where = scene(recognizer, get_defence("none"))
    threshold = float(where.cosine(where.x).min()) - 0.01
    checks = self_checks(
        where, EPS, threshold=threshold, white_box=where.x, black_box=[attacked(where)],
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert "no black box beats the white box" in {c.name for c in checks if not c.passed}


def test_checks_tell_an_attack_that_gets_worse() -> None:
    assert adaptive._check_steps({1: 0.5, 10: 0.2, 40: 0.1}, "dodging").passed
    assert not adaptive._check_steps({1: 0.5, 10: 0.2, 40: 0.3}, "dodging").passed
    assert not adaptive._check_steps({1: 0.5, 10: 0.2}, "impersonation").passed


@pytest.mark.parametrize("options", [{"attacks": ()}, {"restarts": 0}, {"draws": 0}])
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(AttackError, match="expected attacks"):
        AdaptiveAttack(**options)


def test_key_names_every_parameter() -> None:
    keys = {
        attack.key()
        for attack in (SMALL, AdaptiveAttack(), AdaptiveAttack(restarts=2), AdaptiveAttack(draws=3))
    }
    assert len(keys) == 4


def test_through_a_purifier(recognizer: Recognizer, tiny_model: Path) -> None:
    where = scene(recognizer, get_defence(f"{tiny_model}:sampled"))
    assert (where.cosine(attacked(where), range(8)) < where.cosine(where.x, range(8))).all()


class Watched(Defence):
    """Changes nothing, and is alarmed by what makes the picture brighter than its probes are."""

    name = "watched"
    score_threshold = 0.5

    def key(self) -> str:
        return "watched"

    def purify(self, images: np.ndarray, seed: int = 0) -> np.ndarray:
        return images

    def differentiable(self, x: Tensor, seed: int = 0) -> Tensor:
        return x

    def alarm(self, x: Tensor) -> Tensor:
        return 1000 * (x.mean((1, 2, 3)) - BRIGHTNESS.to(x)) - adaptive.MARGIN


BRIGHTNESS = random_images(2 * COUNT, 112).float()[:COUNT].mean((1, 2, 3))


@pytest.mark.parametrize("goal", GOALS)
def test_who_hides_is_found_less_and_reaches_less(recognizer: Recognizer, goal: Goal) -> None:
    where = scene(recognizer, Watched(), goal)
    openly = attacked(where)
    hidden = attacked(where, AdaptiveAttack(attacks=(PGD(steps=20),), draws=2, hiding=1.0))
    change = (hidden - where.x) * 255
    assert change.abs().max() <= EPS + 1e-3
    alarm = where.defence.alarm(hidden)
    assert (alarm < where.defence.alarm(openly)).sum() >= COUNT - 1
    assert (alarm <= 0).sum() >= COUNT - 1
    sign = -1 if goal == "dodging" else 1
    gain = sign * (where.cosine(hidden) - where.cosine(where.x))
    assert (gain > 0).sum() >= COUNT - 1


def test_hiding_needs_a_price_and_a_score(recognizer: Recognizer) -> None:
    with pytest.raises(AttackError, match="hiding >= 0, got -1"):
        AdaptiveAttack(hiding=-1)
    with pytest.raises(OptionError, match="calibrated score"):
        attacked(scene(recognizer, get_defence("none")), AdaptiveAttack((FGSM(),), hiding=1.0))
