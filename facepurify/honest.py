"""What happens to honest faces on their way: a camera's noise, and JPEG files."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["noisy", "recoded"]

Pixels = NDArray[np.uint8]


def noisy(crop: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Add Gaussian noise of this standard deviation, in grey levels."""
    return np.rint(crop + rng.normal(0, sigma, crop.shape)).clip(0, 255).astype(np.uint8)


def recoded(crop: Pixels, quality: int) -> Pixels:
    """Compress as JPEG of this quality, 1 to 100, and decompress.

    Args:
        crop: [H, W, 3] BGR.
        quality: libjpeg's.
    """
    _, code = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
