"""Numbers of face verification, as plain functions on arrays of cosine scores.

A pair is accepted when its score is at or above the threshold. FAR is the share of impostor pairs
accepted, FRR the share of genuine pairs rejected, TAR is one minus FRR. Rates are fractions, not
per cent. Scores that are not finite are refused by a DataError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from facepurify.errors import DataError

__all__ = [
    "Rate",
    "attack_success",
    "auroc",
    "cosine",
    "far",
    "fooled",
    "frr",
    "image_quality",
    "pair_cosine",
    "roc_curve",
    "tar_at_far",
    "ten_fold_accuracy",
    "threshold_at_far",
    "wilson_interval",
]

_FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A share counted on a sample, with its Wilson 95 % interval.

    Attributes:
        hits: How often it happened.
        total: How often it could have happened; at least 1.
        low: Lower end of the interval, in [0, 1].
        high: Upper end of the interval, in [0, 1].
    """

    hits: int
    total: int
    low: float
    high: float

    @classmethod
    def count(cls, outcomes: ArrayLike) -> Rate:
        """Count the true entries of ``outcomes``, boolean [N].

        >>> Rate.count([True, True, False, True]).value
        0.75
        """
        happened = np.asarray(outcomes, dtype=bool)
        hits, total = int(happened.sum()), int(happened.size)
        return cls(hits, total, *wilson_interval(hits, total))

    @property
    def value(self) -> float:
        """The share itself, in [0, 1]."""
        return self.hits / self.total


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Return the Wilson score interval at 95 % of a share (Wilson, JASA 22:209-212, 1927).

    Args:
        hits: Successes, 0 to ``total``.
        total: Trials, at least 1.

    Raises:
        ValueError: If the counts make no sense.

    >>> low, high = wilson_interval(10, 10)
    >>> round(low, 3), high
    (0.722, 1.0)
    """
    if total < 1 or not 0 <= hits <= total:
        raise ValueError(f"expected 0 <= hits <= total and total >= 1, got {hits} of {total}")
    z = 1.959963984540054
    share = hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = (
        z
        * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
        / (1 + z * z / total)
    )
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == total else min(1.0, centre + half)
    return low, high


def cosine(left: ArrayLike, right: ArrayLike) -> _FloatArray:
    """Return the cosine of matching rows of two arrays of unit vectors, [N, d] each, as [N].

    >>> cosine([[1.0, 0.0]], [[0.6, 0.8]]).tolist()
    [0.6]
    """
    product = np.asarray(left, dtype=np.float64) * np.asarray(right, dtype=np.float64)
    return np.asarray(product.sum(axis=-1))


def pair_cosine(embeddings: NDArray[np.floating], pairs: NDArray[np.int64]) -> _FloatArray:
    """Return the cosines [N] of pairs [N, 2] of faces, given the unit embeddings of all, [M, d].

    >>> pair_cosine(np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0, 1], [1, 1]])).tolist()
    [0.6, 1.0]
    """
    return cosine(embeddings[pairs[:, 0]], embeddings[pairs[:, 1]])


def far(impostor: ArrayLike, threshold: float) -> float:
    """Return the false acceptance rate: the share of impostor scores [N] at or above the threshold.

    >>> far([0.1, 0.2, 0.3, 0.4], 0.3)
    0.5
    """
    return float(np.mean(_scores(impostor) >= threshold))


def frr(genuine: ArrayLike, threshold: float) -> float:
    """Return the false rejection rate: the share of genuine scores [N] below the threshold.

    >>> frr([0.1, 0.2, 0.3, 0.4], 0.3)
    0.5
    """
    return float(np.mean(_scores(genuine) < threshold))


def threshold_at_far(impostor: ArrayLike, rate: float) -> float:
    """Return the lowest threshold whose FAR on these impostor scores [N] is at most ``rate``.

    With fewer than ``1 / rate`` scores none may be accepted, and the threshold lies just above the
    highest of them.

    Raises:
        ValueError: If there is no score, or ``rate`` is outside [0, 1].

    >>> scores = [0.1, 0.2, 0.3, 0.4]
    >>> threshold = threshold_at_far(scores, 0.25)
    >>> 0.3 < threshold < 0.4, far(scores, threshold)
    (True, 0.25)
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"expected a rate in [0, 1], got {rate}")
    falling = np.sort(_scores(impostor))[::-1]
    # The small term undoes products such as 0.29 * 100 = 28.999999999999996.
    allowed = math.floor(rate * falling.size + 1e-9)
    if allowed == falling.size:
        return float(falling[-1])
    return float(np.nextafter(falling[allowed], np.inf))


def tar_at_far(genuine: ArrayLike, impostor: ArrayLike, rate: float) -> float:
    """Return the share of genuine scores accepted at the threshold of :func:`threshold_at_far`.

    >>> tar_at_far([0.35, 0.5], [0.1, 0.2, 0.3, 0.4], 0.25)
    1.0
    """
    return 1.0 - frr(genuine, threshold_at_far(impostor, rate))


def roc_curve(genuine: ArrayLike, impostor: ArrayLike, rates: ArrayLike) -> _FloatArray:
    """Return the TAR [R] at each of the FARs ``rates`` [R].

    >>> roc_curve([0.35, 0.5], [0.1, 0.2, 0.3, 0.4], [0.0, 0.25]).tolist()
    [0.5, 1.0]
    """
    return np.array([tar_at_far(genuine, impostor, float(rate)) for rate in np.atleast_1d(rates)])


def ten_fold_accuracy(
    genuine: ArrayLike, impostor: ArrayLike, genuine_folds: ArrayLike, impostor_folds: ArrayLike
) -> tuple[float, float]:
    """Return mean and standard deviation of the accuracy over the folds (the LFW protocol).

    For each fold the threshold that is best on all other folds is applied to it.

    Args:
        genuine: Scores of genuine pairs, [G].
        impostor: Scores of impostor pairs, [I].
        genuine_folds: Fold of each genuine pair, whole numbers [G].
        impostor_folds: Fold of each impostor pair, whole numbers [I].

    Raises:
        ValueError: If fewer than two folds are given.

    >>> ten_fold_accuracy([0.9, 0.8], [0.1, 0.2], [0, 1], [0, 1])
    (1.0, 0.0)
    """
    scores = np.concatenate([_scores(genuine), _scores(impostor)])
    same = np.repeat([True, False], [np.size(genuine), np.size(impostor)])
    folds = np.concatenate([np.asarray(genuine_folds), np.asarray(impostor_folds)])
    names = np.unique(folds)
    if names.size < 2:
        raise ValueError(f"expected at least two folds, got {names.size}")
    accuracies = []
    for name in names:
        held_out = folds == name
        threshold = _best_threshold(scores[~held_out], same[~held_out])
        accuracies.append(np.mean((scores[held_out] >= threshold) == same[held_out]))
    return float(np.mean(accuracies)), float(np.std(accuracies))


def attack_success(scores: ArrayLike, threshold: float, goal: str) -> Rate:
    """Count the attacked pairs whose decision the attacker turned, as :func:`fooled` says.

    >>> attack_success([0.1, 0.5], 0.3, "dodging").value
    0.5
    """
    return Rate.count(fooled(scores, threshold, goal))


def fooled(scores: ArrayLike, threshold: float, goal: str) -> NDArray[np.bool_]:
    """Say of each attacked pair whether the attacker turned its decision.

    Args:
        scores: Cosine of each attacked pair, [N].
        threshold: Where pairs begin to be accepted.
        goal: "dodging": a genuine pair is rejected; "impersonation": an impostor pair is accepted.

    Raises:
        ValueError: If the goal is neither.

    >>> fooled([0.1, 0.5], 0.3, "impersonation").tolist()
    [False, True]
    """
    if goal == "dodging":
        return _scores(scores) < threshold
    if goal == "impersonation":
        return _scores(scores) >= threshold
    raise ValueError(f"expected the goal dodging or impersonation, got {goal!r}")


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Return the area under the ROC curve: the chance that a positive outranks a negative.

    Ties count half (the Mann-Whitney statistic).

    >>> auroc([0.9, 0.5], [0.5, 0.1])
    0.875
    """
    above, below = _scores(positive), np.sort(_scores(negative))
    lower, not_higher = (np.searchsorted(below, above, side) for side in ("left", "right"))
    return float(np.mean(lower + not_higher) / (2 * below.size))


def image_quality(
    images: NDArray[np.uint8], references: NDArray[np.uint8]
) -> tuple[float | None, float]:
    """Return the mean PSNR in dB and the mean SSIM of images against their references.

    Args:
        images: uint8 [N, H, W, 3].
        references: uint8, the same shape.

    Returns:
        PSNR, over the pictures that differ from their reference (None where none does), and SSIM.
    """
    psnr = [
        peak_signal_noise_ratio(reference, image)  # type: ignore[no-untyped-call]
        for image, reference in zip(images, references, strict=True)
        if not np.array_equal(image, reference)
    ]
    ssim = [
        structural_similarity(reference, image, channel_axis=-1)  # type: ignore[no-untyped-call]
        for image, reference in zip(images, references, strict=True)
    ]
    return (float(np.mean(psnr)) if psnr else None), float(np.mean(ssim))


def _scores(values: ArrayLike) -> _FloatArray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"expected scores of shape [N], N >= 1, got shape {scores.shape}")
    broken = int((~np.isfinite(scores)).sum())
    if broken:  # NaN is on no side of a threshold: nobody rejected, no attack successful
        raise DataError(
            f"expected finite scores, got {broken} of {scores.size} that are not: "
            "check the recognizer and the purifier, whose training may have diverged"
        )
    return scores


def _best_threshold(scores: _FloatArray, same: NDArray[np.bool_]) -> float:
    """Return the threshold, midway between two scores, that decides most pairs rightly."""
    order = np.argsort(scores, kind="stable")[::-1]
    falling = scores[order]
    # Accepting the k highest: genuine ones among them, and impostors among the rest, are right.
    right = np.cumsum(np.where(same[order], 1, -1))
    last_of_ties = np.append(falling[:-1] != falling[1:], True)
    levels = falling[last_of_ties]
    best = int(np.argmax(right[last_of_ties]))
    return float(levels[best : best + 2].mean())
