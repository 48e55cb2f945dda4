"""Real faces that other packages ship, for a demonstration or a smoke run without any data.

No detector is shipped with them, so the landmarks are written down here: found once by the
SCRFD-500M detector through insightface 2.1, rounded to a tenth of a pixel, and tied to the very
file by its checksum.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, MissingExtraError

__all__ = ["SampleFace", "sample_faces"]


class SampleFace(NamedTuple):
    """A face in a photo of another package.

    Attributes:
        name: A short name for it, unique.
        path: The photo.
        landmarks: float64 [5, 2], pixels: the eyes, the nose, the corners of the mouth.
    """

    name: str
    path: Path
    landmarks: NDArray[np.float64]


@dataclass(frozen=True)
class _Photo:
    package: str
    file: str
    sha256: str
    faces: dict[str, list[tuple[float, float]]]


_PHOTOS = (
    _Photo(
        "insightface",
        "data/images/t1.jpg",
        "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
        {
            "t1-1": [(82.8, 328.1), (124.4, 302.6), (117.9, 335.1), (114.3, 369.7), (148.9, 347.7)],
            "t1-2": [
                (285.4, 206.1),
                (318.3, 190.0),
                (302.7, 223.9),
                (311.3, 244.7),
                (339.7, 230.5),
            ],
            "t1-3": [
                (495.6, 321.6),
                (545.6, 335.6),
                (513.6, 361.8),
                (484.5, 368.0),
                (530.7, 380.2),
            ],
            "t1-4": [
                (761.1, 400.1),
                (803.8, 399.8),
                (774.6, 429.0),
                (767.2, 444.4),
                (805.0, 443.5),
            ],
            "t1-5": [
                (916.7, 118.8),
                (948.1, 115.6),
                (920.3, 150.9),
                (935.2, 169.9),
                (961.6, 166.1),
            ],
            "t1-6": [
                (1149.3, 324.8),
                (1194.5, 319.8),
                (1170.6, 344.2),
                (1156.5, 366.9),
                (1197.2, 362.7),
            ],
        },
    ),
    _Photo(
        "insightface",
        "data/images/Tom_Hanks_54745.png",
        "8545da294e8c7c79911169c3915fed8528f1960cd0ed99b92453788ca4275083",
        {"hanks": [(35.4, 50.9), (73.1, 48.7), (61.4, 75.4), (39.7, 91.1), (67.4, 89.1)]},
    ),
    _Photo(
        "skimage",
        "data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        {
            "astronaut": [
                (203.6, 104.5),
                (245.6, 103.1),
                (223.7, 126.0),
                (207.4, 143.5),
                (242.9, 142.5),
            ]
        },
    ),
)


def sample_faces() -> list[SampleFace]:
    """Find the faces in the photos that insightface and scikit-image ship.

    Neither package is imported, and nothing is fetched.

    Returns:
        Seven faces of insightface and one of scikit-image; those of a package that is not
        installed are left out.

    Raises:
        MissingExtraError: Neither package is installed.
        DataError: A package is installed, but its photo is missing or another one.
    """
    faces = [face for photo in _PHOTOS for face in _faces_of(photo)]
    if not faces:
        raise MissingExtraError(
            "expected insightface or scikit-image, whose photos serve as samples; install them "
            'with `pip install "facepurify[insightface]"`'
        )
    return faces


def _faces_of(photo: _Photo) -> list[SampleFace]:
    """Give the faces of one photo, none if its package is not installed."""
    spec = importlib.util.find_spec(photo.package)
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin).parent / photo.file
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"expected the photo {path} of {photo.package}: {error.strerror}; reinstall it"
        ) from error
    if digest != photo.sha256:
        raise DataError(
            f"expected {path} with sha256 {photo.sha256}, got {digest}; its landmarks are known "
            f"for that file only, install the release of {photo.package} that facepurify asks for"
        )
    return [SampleFace(name, path, np.array(points)) for name, points in photo.faces.items()]
