"""Where a face is in a photo: the ArcFace template, alignment, and pasting back.

Coordinates are (x, y) in pixels, whole numbers at pixel centres, as OpenCV and insightface
have them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import LandmarkDegenerateError, LandmarkOutsideError, LandmarkShapeError
from .images import SIZE, Array, as_images, clipped, store

__all__ = ["ARCFACE_TEMPLATE", "Matrix", "align", "as_faces", "cut", "paste", "similarity"]

Matrix = NDArray[np.float64]

ARCFACE_TEMPLATE: NDArray[np.float64] = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Left eye, right eye, nose, left and right corner of the mouth (as seen) in a 112x112 crop.

From insightface (``utils/face_align.py``), the alignment of ArcFace (Deng et al., CVPR 2019).
"""
ARCFACE_TEMPLATE.flags.writeable = False

_FEATHER = 4.0  # template pixels over which a pasted crop fades in from its edge
_MAX_SUPERSAMPLING = 16
_BAND = 64  # rows pasted at a time, so that a huge face needs little memory

_FARTHEST = 1e6  # a landmark from the origin, in pixels
_MIN_SIDE = 1.0  # of the template square in the photo, in pixels
_MIN_FLATNESS = 0.01  # second over first principal extent of the five points
_MIN_CORRELATION = 0.3  # with the template; 0.23 is a mirrored face


def similarity(landmarks: NDArray[np.float64]) -> Matrix:
    """Estimate the similarity that brings landmarks closest to the ArcFace template.

    Least squares over rotation, scale and translation, without reflection: the estimate of
    Umeyama (IEEE TPAMI 13(4):376-380, 1991), which in the plane is linear regression of
    complex numbers, w = a z + b.

    Args:
        landmarks: float64 [5, 2], finite (see :func:`as_faces`).

    Returns:
        float64 [2, 3], from photo to crop coordinates, as ``cv2.warpAffine`` takes it.

    Raises:
        LandmarkDegenerateError: The points are coincident, collinear, mirrored or within a pixel.

    Example:
        >>> similarity(2 * ARCFACE_TEMPLATE + 10).round(6) + 0.0
        array([[ 0.5,  0. , -5. ],
               [ 0. ,  0.5, -5. ]])
    """
    z, w = landmarks @ [1, 1j], ARCFACE_TEMPLATE @ [1, 1j]
    z_mean, w_mean = z.mean(), w.mean()
    z_centred, w_centred = z - z_mean, w - w_mean
    moment = np.vdot(z_centred, w_centred)
    spread, template_spread = np.linalg.norm(z_centred), np.linalg.norm(w_centred)
    extents = np.linalg.svd(landmarks - landmarks.mean(0), compute_uv=False)
    if (
        spread * SIZE < _MIN_SIDE * template_spread
        or extents[1] < _MIN_FLATNESS * extents[0]
        or abs(moment) < _MIN_CORRELATION * spread * template_spread
    ):
        raise LandmarkDegenerateError(
            "expected left eye, right eye, nose, left and right corner of the mouth of a face, "
            f"got {landmarks.round(1).tolist()}, which no rotation and scale brings onto one"
        )
    a = moment / spread**2
    b = w_mean - a * z_mean
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def as_faces(landmarks: ArrayLike, photo: Array) -> list[NDArray[np.float64]]:
    """Check the landmarks of one photo.

    Args:
        landmarks: [5, 2] for one face or [M, 5, 2] for M faces, in pixels; empty for none.
        photo: The photo HxW or HxWx3 that they lie in.

    Returns:
        M arrays, float64 [5, 2].

    Raises:
        LandmarkShapeError: Another shape, or not numbers.
        LandmarkDegenerateError: NaN, an infinity, or beyond a million pixels.
        LandmarkOutsideError: A face of which no point lies in the photo.
    """
    try:
        points = np.asarray(landmarks, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise LandmarkShapeError(
            f"expected landmarks [5, 2] or [M, 5, 2], got {type(landmarks).__name__}: {error}"
        ) from error
    if points.shape == (0,):
        return []
    if points.shape[-2:] != (5, 2) or points.ndim not in (2, 3):
        raise LandmarkShapeError(
            f"expected landmarks [5, 2] or [M, 5, 2], got shape {points.shape}; each face has "
            "left eye, right eye, nose, left and right corner of the mouth, as (x, y)"
        )
    if not (np.abs(points) <= _FARTHEST).all():  # false for NaN too
        raise LandmarkDegenerateError(
            f"expected finite landmarks within {_FARTHEST:g} pixels, got {points.tolist()}"
        )
    height, width = photo.shape[:2]
    faces = list(points.reshape(-1, 5, 2))
    for index, face in enumerate(faces):
        inside = (face >= -0.5) & (face < (width - 0.5, height - 0.5))
        if not inside.all(1).any():
            raise LandmarkOutsideError(
                f"expected face {index} to have landmarks in the photo of {width}x{height} "
                f"pixels, got {face.round(1).tolist()}; were they found in a scaled copy?"
            )
    return faces


def align(photo: Array, landmarks: ArrayLike) -> Array:
    """Cut an aligned crop out of a photo, as insightface's ``norm_crop`` does.

    A face of more than twice the size of the crop is averaged down instead of sampled, since
    sampling would alias fine detail (where attacks hide) into the crop.

    Args:
        photo: HxW or HxWx3, uint8, or float32 / float64 in [0, 1].
        landmarks: [5, 2]: left eye, right eye, nose, left and right corner of the mouth.

    Returns:
        The crop, 112x112 or 112x112x3, of the photo's dtype; black where it leaves the photo.

    Raises:
        ImageError: ``photo`` is not one image.
        LandmarkError: The landmarks are no face in this photo.

    Example:
        >>> photo = np.zeros((250, 250, 3), np.uint8)
        >>> align(photo, ARCFACE_TEMPLATE + 60).shape
        (112, 112, 3)
    """
    (image,) = as_images([photo])
    faces = as_faces(landmarks, image)
    if len(faces) != 1:
        raise LandmarkShapeError(f"expected the landmarks of one face, got {len(faces)} faces")
    return cut(image, similarity(faces[0]))


def cut(photo: Array, matrix: Matrix) -> Array:
    """Warp a photo to the 112x112 crop of a similarity.

    Args:
        photo: HxW or HxWx3.
        matrix: float64 [2, 3] of :func:`similarity`.

    Returns:
        The crop, of the photo's dtype; black where it leaves the photo.
    """
    return _warp(photo, matrix, SIZE, SIZE, cv2.BORDER_CONSTANT)


def paste(photo: Array, crop: Array, matrix: Matrix) -> None:
    """Blend a crop back into the photo it was cut from, in place.

    The whole template square is replaced, fading in over 4 template pixels inside its edge.
    Pixels outside the square stay bit for bit.

    Args:
        photo: HxW or HxWx3, written to.
        crop: 112x112 or 112x112x3, same dtype and number of channels.
        matrix: float64 [2, 3] of :func:`similarity`, with which it was cut.
    """
    back = cv2.invertAffineTransform(matrix)
    far = SIZE - 1
    corners = np.array([[0, 0, 1], [far, 0, 1], [0, far, 1], [far, far, 1]]) @ back.T
    height, width = photo.shape[:2]
    left, top = np.floor(corners.min(0)).clip(0, (width, height)).astype(int)
    right, bottom = np.ceil(corners.max(0) + 1).clip(0, (width, height)).astype(int)
    from_edge = np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1])
    ramp = np.minimum(from_edge / _FEATHER, 1).astype(np.float32)
    opacity = np.minimum.outer(ramp, ramp)
    for start in range(top, bottom, _BAND):
        band = photo[start : min(start + _BAND, bottom), left:right]
        to_band = back - [[0, 0, left], [0, 0, start]]
        height, width = band.shape[:2]
        weight = _warp(opacity, to_band, height, width, cv2.BORDER_CONSTANT)
        face = _warp(crop, to_band, height, width, cv2.BORDER_REPLICATE)
        if photo.ndim == 3:
            weight = weight[..., None]
        mixed = weight * face + (1 - weight) * band
        np.copyto(band, store(mixed, photo.dtype), where=weight > 0)


def _warp(image: Array, matrix: Matrix, height: int, width: int, border: int) -> Array:
    """Warp bilinearly; average over finer samples where the image shrinks to half or less."""
    shrinking = 1 / max(np.hypot(matrix[0, 0], matrix[1, 0]), 1e-9)
    finer = int(min(max(shrinking, 1), _MAX_SUPERSAMPLING))
    # Centre u of a pixel lies at finer * (u + 1/2) - 1/2 on the finer grid.
    fine = finer * matrix
    fine[:, 2] += (finer - 1) / 2
    warped = cv2.warpAffine(
        np.ascontiguousarray(image),
        fine,
        (finer * width, finer * height),
        flags=cv2.INTER_LINEAR,
        borderMode=border,
    )
    if finer > 1:
        warped = cv2.resize(warped, (width, height), interpolation=cv2.INTER_AREA)
    return clipped(np.asarray(warped))
