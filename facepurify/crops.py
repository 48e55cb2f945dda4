"""Which 112x112 crops the caller's images come down to, and the way back into the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .errors import LandmarkShapeError
from .geometry import Matrix, as_faces, cut, paste, similarity
from .images import SIZE, Array, resize

__all__ = ["cut_all", "is_single", "matrices_of", "put_back"]


def is_single(image: object) -> bool:
    """Tell one image, HxW or HxWx3, from an array or a list of several."""
    return isinstance(image, np.ndarray) and image.ndim < 4


def matrices_of(
    image: object, images: list[Array], landmarks: ArrayLike | Sequence[ArrayLike] | None
) -> list[list[Matrix]] | None:
    """Estimate the similarity of each face of each photo.

    Args:
        image: What the caller gave.
        images: The single images in it.
        landmarks: As for ``Purifier.purify``.

    Returns:
        float64 [2, 3] for each face, in a list for each photo; None without landmarks.

    Raises:
        LandmarkError: Not one set of landmarks for each photo, or no face in it.
    """
    if landmarks is None:
        return None
    each: list[Any] = [landmarks]
    if not is_single(image):
        each = []
        if isinstance(landmarks, list | tuple) or (
            isinstance(landmarks, np.ndarray) and landmarks.ndim > 0
        ):
            each = list(landmarks)
    if len(each) != len(images):
        raise LandmarkShapeError(
            f"expected landmarks for each of {len(images)} photos, [5, 2] or [M, 5, 2] each, "
            f"got {len(each)} sets"
        )
    return [
        [similarity(face) for face in as_faces(points, photo)]
        for points, photo in zip(each, images, strict=True)
    ]


def cut_all(images: list[Array], matrices: list[list[Matrix]] | None) -> list[Array]:
    """Make the 112x112 crops of all images, or of all faces of all photos, in order.

    Args:
        images: Crops of any sizes, or photos.
        matrices: None for crops; for photos what :func:`matrices_of` gave.

    Returns:
        112x112 or 112x112x3 each, of its image's dtype.
    """
    if matrices is None:
        return [resize(image, SIZE, SIZE) for image in images]
    return [
        cut(photo, matrix)
        for photo, faces in zip(images, matrices, strict=True)
        for matrix in faces
    ]


def put_back(
    images: list[Array], matrices: list[list[Matrix]] | None, crops: list[Array]
) -> list[Array]:
    """Undo :func:`cut_all` with the purified crops; the images themselves stay as they are.

    Args:
        images: As for :func:`cut_all`.
        matrices: As for :func:`cut_all`.
        crops: The purified crops, in the order of :func:`cut_all`.

    Returns:
        New images of the shapes and dtypes of ``images``.
    """
    if matrices is None:
        return [resize(crop, *image.shape[:2]) for crop, image in zip(crops, images, strict=True)]
    remaining = iter(crops)
    photos = [photo.copy() for photo in images]
    for photo, faces in zip(photos, matrices, strict=True):
        for matrix in faces:
            paste(photo, next(remaining), matrix)
    return photos
