"""What counts as an image, and the way between the caller's images and canonical batches.

A canonical batch is float32 [N, 3, 112, 112], RGB, in [0, 1]: what a model reads and writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import ImageShapeError, ImageTypeError, ImageValueError, OptionError

__all__ = [
    "SIZE",
    "Array",
    "Colour",
    "as_images",
    "check_canonical",
    "check_colour",
    "clipped",
    "from_canonical",
    "resize",
    "store",
    "to_canonical",
]

SIZE = 112
"""Side of an aligned crop, in pixels."""

MAX_SIDE = 32_766
"""Longest side that OpenCV can warp, in pixels."""

Array = NDArray[Any]
Colour = Literal["bgr", "rgb"]

_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float64))
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as OpenCV's RGB2GRAY


def check_colour(color: str) -> None:
    """Refuse a channel order that is neither ``"bgr"`` nor ``"rgb"``.

    Raises:
        OptionError: Another value.
    """
    if color not in ("bgr", "rgb"):
        raise OptionError(f'expected color "bgr" or "rgb", got {color!r}')


def as_images(image: object) -> list[Array]:
    """Check what the caller gave and take it apart into single images.

    Args:
        image: One image HxW (grey) or HxWx3, an array NxHxWx3, or a list of single images of
            any sizes and kinds; uint8, or float32 / float64 in [0, 1].

    Returns:
        The single images, as views where possible.

    Raises:
        ImageTypeError: Not an array or a list of arrays, or another dtype.
        ImageShapeError: Other dimensions or channels, nothing in it, or a side above 32,766.
        ImageValueError: A float image with NaN, an infinity or a value outside [0, 1].

    Example:
        >>> [i.shape for i in as_images(np.zeros((2, 112, 112, 3), np.uint8))]
        [(112, 112, 3), (112, 112, 3)]
    """
    if isinstance(image, list):
        if not image:
            raise ImageShapeError("expected at least one image, got an empty list")
        return [
            _check(one, f"image {index} of the list", batch=False)
            for index, one in enumerate(image)
        ]
    array = _check(image, "the image", batch=True)
    return list(array) if array.ndim == 4 else [array]


def check_canonical(batch: object) -> None:
    """Refuse whatever is not a canonical batch.

    Raises:
        ImageTypeError: Not a float32 array.
        ImageShapeError: Not [N, 3, 112, 112] with N >= 1.
        ImageValueError: NaN, an infinity or a value outside [0, 1].
    """
    if not isinstance(batch, np.ndarray) or batch.dtype != np.float32:
        got = batch.dtype if isinstance(batch, np.ndarray) else type(batch).__name__
        raise ImageTypeError(f"expected a float32 array [N, 3, 112, 112], got {got}")
    if batch.ndim != 4 or batch.shape[1:] != (3, SIZE, SIZE) or not len(batch):
        raise ImageShapeError(
            f"expected a batch [N, 3, {SIZE}, {SIZE}] with N >= 1, got {list(batch.shape)}"
        )
    _check_range(batch, "the batch")


def resize(image: Array, height: int, width: int) -> Array:
    """Resize by area averaging along the sides that shrink, then bilinearly along those that grow.

    Args:
        image: HxW or HxWx3, any dtype of :func:`as_images`.
        height: New height in pixels.
        width: New width in pixels.

    Returns:
        The resized image, of the same dtype; ``image`` itself where the size is right.
    """
    smaller = min(height, image.shape[0]), min(width, image.shape[1])
    for size, how in ((smaller, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if image.shape[:2] != size:
            resized = cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=how)
            image = clipped(np.asarray(resized))
    return image


def clipped(image: Array) -> Array:
    """Clip what rounding put outside [0, 1] in a float image, so that it stays one.

    Args:
        image: Of any dtype of :func:`as_images`.

    Returns:
        The image; uint8 as it is.
    """
    return image if image.dtype == np.uint8 else store(image, image.dtype)


def to_canonical(crops: Sequence[Array], color: Colour) -> NDArray[np.float32]:
    """Pack crops into a canonical batch.

    Args:
        crops: N crops 112x112 (grey, replicated to RGB) or 112x112x3.
        color: Channel order of the coloured crops.

    Returns:
        float32 [N, 3, 112, 112], RGB, in [0, 1].

    Example:
        >>> to_canonical([np.full((112, 112), 51, np.uint8)], "bgr")[0, :, 0, 0]
        array([0.2, 0.2, 0.2], dtype=float32)
    """
    batch = np.empty((len(crops), 3, SIZE, SIZE), np.float32)
    for crop, planes in zip(crops, batch, strict=True):
        if crop.ndim == 3:
            crop = (crop[..., ::-1] if color == "bgr" else crop).transpose(2, 0, 1)
        planes[:] = crop
        if crop.dtype == np.uint8:
            planes /= np.float32(255)
    return batch


def from_canonical(batch: NDArray[np.float32], like: Sequence[Array], color: Colour) -> list[Array]:
    """Unpack a canonical batch into crops of the kinds they came from.

    Args:
        batch: float32 [N, 3, 112, 112], RGB, in [0, 1].
        like: N images; each says by its dimensions and dtype what its crop becomes. Grey ones
            get the luma (BT.601), uint8 ones are rounded, halves to even.
        color: Channel order of the coloured crops.

    Returns:
        N new arrays, 112x112 or 112x112x3.

    Example:
        >>> crop = np.arange(112 * 112 * 3).reshape(112, 112, 3).astype(np.uint8)
        >>> back, = from_canonical(to_canonical([crop], "bgr"), [crop], "bgr")
        >>> np.array_equal(back, crop)
        True
    """
    crops: list[Array] = []
    for planes, original in zip(batch, like, strict=True):
        values = np.tensordot(_LUMA, planes, 1) if original.ndim == 2 else planes
        if original.dtype == np.uint8:
            values = values * np.float32(255)
        # Planes are stored before they are interleaved: that is three times as fast.
        stored = store(values, original.dtype)
        if stored.ndim == 3:
            stored = np.asarray(cv2.merge(list(stored[::-1] if color == "bgr" else stored)))
        crops.append(stored)
    return crops


def store(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> Array:
    """Bring computed pixels into an image's dtype.

    Args:
        values: Floats, in 0..255 for uint8, else in 0..1, give or take rounding.
        dtype: uint8 (rounded, halves to even), float32 or float64.

    Returns:
        A new array of that dtype, clipped to its range.

    Example:
        >>> store(np.array([-0.2, 0.5, 1.5, 255.7]), np.dtype(np.uint8))
        array([  0,   0,   2, 255], dtype=uint8)
    """
    if dtype == np.uint8:
        values = np.rint(values)
        stored: Array = np.clip(values, 0, 255, out=values).astype(dtype)
    else:
        stored = np.clip(values, 0, 1).astype(dtype, copy=False)
    return stored


def _check(image: object, name: str, *, batch: bool) -> Array:
    """Refuse whatever is not an image (or, with ``batch``, an array of images)."""
    if not isinstance(image, np.ndarray):
        raise ImageTypeError(
            f"expected {name} to be a numpy array, got {type(image).__name__}; "
            "convert it with numpy.asarray, or decode it first"
        )
    image = np.asarray(image)  # of a subclass the pixels alone count: a mask hides none
    if image.dtype not in _DTYPES:
        raise ImageTypeError(
            f"expected {name} to be uint8, or float32 / float64 in [0, 1], got {image.dtype}; "
            "scale it to one of these"
        )
    shapes = "HxW, HxWx3" + (" or NxHxWx3" if batch else "")
    if image.ndim not in ((2, 3, 4) if batch else (2, 3)) or (
        image.ndim > 2 and image.shape[-1] != 3
    ):
        raise ImageShapeError(
            f"expected {name} to be {shapes}, got shape {image.shape}; "
            "drop an alpha channel, move channels last"
        )
    if image.size == 0:
        raise ImageShapeError(f"expected {name} to have pixels, got shape {image.shape}")
    if max(image.shape[-3:-1] if image.ndim > 2 else image.shape) > MAX_SIDE:
        raise ImageShapeError(
            f"expected sides of at most {MAX_SIDE} pixels in {name}, got shape {image.shape}; "
            "scale it down or cut the faces out"
        )
    if image.dtype.kind == "f":
        _check_range(image, name)
    return image


def _check_range(image: NDArray[np.floating[Any]], name: str) -> None:
    low, high = float(image.min()), float(image.max())
    if not (low >= 0.0 and high <= 1.0):  # false for NaN too
        raise ImageValueError(
            f"expected the floats of {name} in [0, 1], got {low:g} to {high:g}; "
            "divide 0..255 by 255, clip small overshoots, replace NaN"
        )
