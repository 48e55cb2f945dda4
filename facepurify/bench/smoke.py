"""The run without arguments: a handful of bundled photos, to see that everything works.

It measures nothing: no photo shows a person twice, so the genuine pairs are two altered copies of
one photo.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

import facepurify
from facepurify.bench.pairs import Pairs
from facepurify.imagefiles import read_image
from facepurify.samples import sample_faces

__all__ = ["smoke_pairs"]

_Crop = NDArray[np.uint8]


def smoke_pairs() -> Pairs:
    """Return pairs of the faces in the photos that insightface and scikit-image bundle.

    The probe is the crop blurred and dimmed, the gallery face the crop mirrored, shifted and
    brightened. Genuine are the two of one crop, impostors those of two different crops.

    Raises:
        MissingExtraError: Neither package is installed.
        DataError: A photo of theirs is missing or another one.
    """
    crops = [
        facepurify.align(read_image(face.path).pixels, face.landmarks) for face in sample_faces()
    ]
    probes = [_relit(_blurred(crop), 0.85) for crop in crops]
    gallery = [_relit(_shifted(crop[:, ::-1]), 1.15) for crop in crops]
    count = len(crops)
    return Pairs.from_arrays(
        np.stack([face[..., ::-1] for face in probes + gallery]),
        [(person, count + person) for person in range(count)],
        [
            (person, count + other)
            for person in range(count)
            for other in range(count)
            if other != person
        ],
        name="bundled photos",
    )


def _blurred(crop: _Crop) -> _Crop:
    return cv2.GaussianBlur(crop, (0, 0), 0.8).astype(np.uint8)


def _shifted(crop: _Crop) -> _Crop:
    move = np.array([[1, 0, 3], [0, 1, -2]], np.float32)
    moved = cv2.warpAffine(crop, move, crop.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    return moved.astype(np.uint8)


def _relit(crop: _Crop, gain: float) -> _Crop:
    return np.asarray(np.clip(np.rint(crop * gain), 0, 255), np.uint8)
