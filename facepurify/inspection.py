"""What a purifier removed from a face, and what it thought of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .images import Array

__all__ = ["Inspection", "antibody", "compare"]


@dataclass(frozen=True)
class Inspection:
    """A face before and after, and how suspicious it was.

    This is no liveness test: a printed photo or a replayed video is a clean image to it, and a
    high score says that the pixels look tampered with, not that the person is not there.

    Attributes:
        image: The image that was inspected, a copy.
        purified: The same, purified.
        removed: float32, purified minus image, same shape; in grey levels of 255 for a uint8
            image, in units of the image for a float one.
        removed_picture: uint8, ``removed`` for the eye: 128 is nothing, the largest change is
            black or white.
        removed_gain: What ``removed`` was multiplied by for the picture.
        score: Suspicion, higher is more suspicious: a model's lies in [0, 1], that of a chain is
            the largest of its models' over their thresholds. None if no model gives one.
        threshold: The score from which an image is called suspicious; None if not calibrated.
        suspicious: Whether the score reaches the threshold; None if either is missing.
        mask: float32 [K], the antibody used: the weight of each eigenface; None without one.
        probability: float32 [K], the p that it was made of; None without one.
    """

    image: Array
    purified: Array
    removed: NDArray[np.float32]
    removed_picture: NDArray[np.uint8]
    removed_gain: float
    score: float | None
    threshold: float | None
    suspicious: bool | None
    mask: NDArray[np.float32] | None
    probability: NDArray[np.float32] | None = None

    @property
    def active(self) -> NDArray[np.int64] | None:
        """Numbers of the eigenfaces that the antibody keeps at more than half their weight."""
        return None if self.mask is None else np.flatnonzero(self.mask > 0.5)

    @property
    def sparsity(self) -> float | None:
        """Share of the eigenfaces that the antibody leaves out, 0 to 1."""
        return None if self.mask is None else float(1 - self.mask.mean())

    @property
    def certainty(self) -> float | None:
        """How certain the antibody is: the mean of 2 |p - 1/2|, 0 to 1."""
        return None if self.probability is None else float(np.abs(2 * self.probability - 1).mean())


def compare(
    image: Array,
    purified: Array,
    *,
    score: float | None = None,
    threshold: float | None = None,
    mask: NDArray[np.float32] | None = None,
    probability: NDArray[np.float32] | None = None,
) -> Inspection:
    """Set an image and its purified self side by side.

    Args:
        image: HxW or HxWx3, uint8 or float.
        purified: The same shape and dtype.
        score: Suspicion in [0, 1].
        threshold: Score from which an image is suspicious.
        mask: float32 [K], the antibody used.
        probability: float32 [K], what it was made of.

    Returns:
        The inspection.

    Example:
        >>> before = np.full((112, 112), 100, np.uint8)
        >>> after = before.copy()
        >>> after[0, 0] = 90
        >>> found = compare(before, after, score=0.7, threshold=0.5)
        >>> found.removed[0, 0], found.removed_picture[0, :2], found.suspicious
        (np.float32(-10.0), array([  1, 128], dtype=uint8), True)
    """
    removed = purified.astype(np.float32) - image.astype(np.float32)
    largest = float(np.abs(removed).max())
    gain = 127 / largest if largest > 0 else 1.0
    suspicious = None if score is None or threshold is None else score >= threshold
    return Inspection(
        image=image.copy(),
        purified=purified,
        removed=removed,
        removed_picture=np.rint(128 + gain * removed).astype(np.uint8),
        removed_gain=gain,
        score=score,
        threshold=threshold,
        suspicious=suspicious,
        mask=mask,
        probability=probability,
    )


def antibody(
    probability: NDArray[np.float32], mask: str, uniform: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Weigh the eigenfaces as the model does.

    Args:
        probability: float32 [N, K], activation probability p of each eigenface.
        mask: ``"expected"``: p itself. ``"fixed"``: 1 where p > mean(p), else 0 (Ren et al.,
            IEEE TIFS 17:2947-2962, 2022). ``"sampled"``: 1 where p > u, else 0 (same source).
            ``"threshold"``: 1 where p > 1/2, the likeliest of these.
        uniform: float32 [1, K], the u of ``"sampled"`` and ``"threshold"``, else unused.

    Returns:
        float32 [N, K].

    Example:
        >>> antibody(np.array([[0.1, 0.9]], np.float32), "fixed", None)
        array([[0., 1.]], dtype=float32)
    """
    if mask == "expected":
        return probability
    bound = probability.mean(1, keepdims=True) if uniform is None else uniform
    return (probability > bound).astype(np.float32)
