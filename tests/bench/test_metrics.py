from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from facepurify.bench import metrics
from facepurify.errors import DataError

scores = hnp.arrays(
    np.float64, st.integers(1, 60), elements=st.sampled_from(np.linspace(-1, 1, 21).tolist())
)
rates = st.sampled_from([0.0, 1e-3, 1e-2, 0.1, 0.29, 0.5, 1.0])


@given(impostor=scores, rate=rates)
def test_threshold_keeps_the_far_and_is_the_lowest_that_does(impostor, rate):
    threshold = metrics.threshold_at_far(impostor, rate)
    assert metrics.far(impostor, threshold) <= rate + 1e-9
    below = impostor[impostor < threshold]
    if below.size:
        assert metrics.far(impostor, below.max()) > rate


@given(genuine=scores, impostor=scores)
def test_roc_rises(genuine, impostor):
    curve = metrics.roc_curve(genuine, impostor, [0.0, 1e-2, 0.1, 0.5, 1.0])
    assert (np.diff(curve) >= 0).all()


@given(positive=scores, negative=scores)
def test_auroc_is_that_of_scikit_learn(positive, negative):
    labels = np.repeat([1, 0], [positive.size, negative.size])
    expected = roc_auc_score(labels, np.concatenate([positive, negative]))
    assert metrics.auroc(positive, negative) == pytest.approx(expected)


@given(total=st.integers(1, 1000), data=st.data())
def test_wilson_interval_holds_the_share_and_mirrors(total, data):
    hits = data.draw(st.integers(0, total))
    low, high = metrics.wilson_interval(hits, total)
    assert 0 <= low <= hits / total <= high <= 1
    mirrored_low, mirrored_high = metrics.wilson_interval(total - hits, total)
    assert (1 - mirrored_high, 1 - mirrored_low) == pytest.approx((low, high))


def test_wilson_interval_of_a_known_case():
    # Newcombe (1998), Statistics in Medicine 17:857-872, table I: 81 of 263.
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_interval_refuses_counts_without_sense(hits, total):
    with pytest.raises(ValueError, match="expected 0 <= hits"):
        metrics.wilson_interval(hits, total)


def test_attack_success_counts_the_turned_decisions():
    values = [0.1, 0.3, 0.5]
    dodging = metrics.attack_success(values, 0.3, "dodging")
    impersonation = metrics.attack_success(values, 0.3, "impersonation")
    assert (dodging.hits, impersonation.hits) == (1, 2)
    assert dodging.total == impersonation.total == 3
    with pytest.raises(ValueError, match="expected the goal"):
        metrics.attack_success(values, 0.3, "evasion")


def test_ten_fold_accuracy_takes_the_threshold_from_the_other_folds():
    # Fold 1 lies lower as a whole: the threshold of fold 0 rejects its genuine pair.
    accuracy, deviation = metrics.ten_fold_accuracy([0.9, 0.4], [0.5, 0.1], [0, 1], [0, 1])
    assert (accuracy, deviation) == (0.5, 0.0)
    with pytest.raises(ValueError, match="at least two folds"):
        metrics.ten_fold_accuracy([0.9], [0.1], [0], [0])


@given(genuine=scores, impostor=scores)
def test_ten_fold_accuracy_is_that_of_trying_every_threshold(genuine, impostor):
    folds = np.arange(genuine.size) % 3, np.arange(impostor.size) % 3
    if np.unique(np.concatenate(folds)).size < 2:
        return
    values = np.concatenate([genuine, impostor])
    same = np.repeat([True, False], [genuine.size, impostor.size])
    fold = np.concatenate(folds)
    expected = []
    for name in np.unique(fold):
        rest = values[fold != name], same[fold != name]
        levels = sorted(set(rest[0]), reverse=True)
        tried = [np.mean(levels[place : place + 2]) for place in range(len(levels))]
        best = max(tried, key=lambda t: np.mean((rest[0] >= t) == rest[1]))
        expected.append(np.mean((values[fold == name] >= best) == same[fold == name]))
    accuracy, _ = metrics.ten_fold_accuracy(genuine, impostor, *folds)
    assert accuracy == pytest.approx(np.mean(expected))


def test_image_quality_of_unchanged_and_changed_faces():
    images = np.random.default_rng(0).integers(0, 200, (2, 16, 16, 3), np.uint8)
    assert metrics.image_quality(images, images) == (None, 1.0)
    psnr, ssim = metrics.image_quality(images + np.uint8(10), images)
    assert psnr == pytest.approx(20 * np.log10(255 / 10))
    assert 0.5 < ssim < 1


@pytest.mark.parametrize("values", [[], [[0.1]]])
def test_scores_of_another_shape_are_refused(values):
    with pytest.raises(ValueError, match=r"scores of shape \[N\]"):
        metrics.far(values, 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "rate",
    [
        lambda scores: metrics.far(scores, 0.3),
        lambda scores: metrics.frr(scores, 0.3),
        lambda scores: metrics.threshold_at_far(scores, 0.1),
        lambda scores: metrics.attack_success(scores, 0.3, "dodging"),
        lambda scores: metrics.attack_success(scores, 0.3, "impersonation"),
        lambda scores: metrics.auroc([0.5], scores),
        lambda scores: metrics.ten_fold_accuracy([0.9, 0.8], scores, [0, 1], [0, 1]),
    ],
    ids=["far", "frr", "threshold", "dodging", "impersonation", "auroc", "accuracy"],
)
def test_scores_of_a_diverged_network_are_no_perfect_row(rate, value):
    with pytest.raises(DataError, match="expected finite scores, got 1 of 2 that are not"):
        rate([0.1, value])


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_outside_the_range_are_refused(rate):
    with pytest.raises(ValueError, match="expected a rate"):
        metrics.threshold_at_far([0.1], rate)
