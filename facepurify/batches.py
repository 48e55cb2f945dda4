"""Purifying columns of images: the callable that Ray Data's ``map_batches`` takes.

Ray itself is not imported here: a batch is a dictionary of numpy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .errors import (
    DataError,
    ImageError,
    ImageShapeError,
    ImageTypeError,
    LandmarkError,
    OptionError,
    OutputError,
)
from .imagefiles import MAX_PIXELS, DecodedImage, decode_image, encode_image
from .images import SIZE, Array, Colour, check_colour
from .purifier import Purifier, check_seed

__all__ = ["PurifyBatch"]

_OF_A_ROW = (ImageError, LandmarkError, OutputError)


class PurifyBatch:
    """Purifies one column of a batch and leaves the others alone.

    Ray makes one in each worker (``Dataset.map_batches(PurifyBatch, ...)``). A row's result does
    not depend on the worker, on the batch, or on how often a dead worker's batch is done again.

    Args:
        column: The images: encoded (the bytes of JPEG, PNG or WebP files), arrays HxWx3 or HxW
            of one size or of several, or such arrays as nested lists, as Parquet holds them.
        landmarks: None if every image is an aligned crop; else the column with the landmarks in
            each, [5, 2] or [M, 5, 2] in pixels.
        errors: None to raise the first error, which ends a Ray job; else the name of a column
            to add, with the reason for each row that failed and "" for the others. An image
            that failed is replaced by no bytes, or by a black one: it is never passed on. What
            is wrong with the model and not with a row is raised in any case.
        color: Channel order of arrays; Ray's ``read_images`` gives ``"rgb"``.
        model: As for :class:`~facepurify.Purifier`; what searches for antibodies runs without.
        mask: As for :class:`~facepurify.Purifier`.
        seed: As for :meth:`~facepurify.Purifier.purify`; one draw for every batch.
        providers: As for :class:`~facepurify.Purifier`.
        threads: As for :class:`~facepurify.Purifier`; one by default, since Ray counts a worker
            as one core.
        max_pixels: The most pixels of an encoded image, width times height; a batch is worked on
            in runs of hardly more.

    Raises:
        OptionError: No seed, no number of pixels, or ``errors`` names a column that is read.
        FacePurifyError: As :class:`~facepurify.Purifier`.

    Example:
        >>> batch = {"id": np.arange(2), "image": np.full((2, 112, 112, 3), 128, np.uint8)}
        >>> purified = PurifyBatch()(batch)
        >>> purified["image"].shape, purified["id"]
        ((2, 112, 112, 3), array([0, 1]))
    """

    def __init__(
        self,
        column: str = "image",
        *,
        landmarks: str | None = None,
        errors: str | None = None,
        color: Colour = "rgb",
        model: str | None = None,
        mask: str | None = None,
        seed: int | None = None,
        providers: list[str] | None = None,
        threads: int | None = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_colour(color)
        check_seed(seed)
        if type(max_pixels) is not int or max_pixels < 1:
            raise OptionError(f"expected max_pixels as a whole number >= 1, got {max_pixels!r}")
        if errors is not None and errors in (column, landmarks):
            raise OptionError(f"expected errors to name a new column, got {errors!r}")
        self._column = column
        self._landmarks = landmarks
        self._errors = errors
        self._color = color
        self._seed = seed
        self._max_pixels = max_pixels
        self._purifier = Purifier(model, providers=providers, threads=threads, mask=mask)

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Any]:
        """Purify a batch.

        Args:
            batch: Columns by name, as ``batch_format="numpy"`` (Ray's default) gives them.

        Returns:
            The same columns, with the purified images in the kind that they came in (an encoded
            one in its format, nested lists as arrays), and the column of errors if wanted.

        Raises:
            DataError: A column is missing, or that of the errors is there already.
            ImageError: Not images, unless ``errors`` is set; so with the next two.
            LandmarkError: Landmarks that are no face in the photo.
            OutputError: A purified image that its format cannot hold.
            ModelOutputError: The model failed.
        """
        for name in (self._column, self._landmarks):
            if name is not None and name not in batch:
                raise DataError(f"expected a column {name!r}, the columns are: {', '.join(batch)}")
        if self._errors is not None and self._errors in batch:
            raise DataError(f"expected no column {self._errors!r} yet, for the errors; rename it")
        values = list(batch[self._column])
        places = None if self._landmarks is None else list(batch[self._landmarks])
        reasons = [""] * len(values)
        try:
            purified = self._purify(values, places)
        except _OF_A_ROW:
            if self._errors is None:
                raise
            purified = []
            encoded = not any(isinstance(value, np.ndarray | list) for value in values)
            for row, value in enumerate(values):
                place = None if places is None else places[row : row + 1]
                try:
                    purified += self._purify([value], place)
                except _OF_A_ROW as error:
                    reasons[row] = str(error)
                    purified.append(b"" if encoded else _black(value))
        result: dict[str, Any] = {**batch, self._column: _column(purified)}
        if self._errors is not None:
            result[self._errors] = np.array(reasons, dtype=object)
        return result

    def _purify(self, values: list[Any], places: list[Any] | None) -> list[Array | bytes]:
        """Purify all rows, in runs that fit into memory."""
        result: list[Array | bytes] = []
        for files, images in self._runs(values):
            run = None if places is None else places[len(result) : len(result) + len(images)]
            purified = self._purifier.purify(
                images,
                landmarks=None if run is None else [_array(place, "landmarks") for place in run],
                color=self._color,
                seed=self._seed,
            )
            result += [
                image if file is None else _encoded(_in_order(image, self._color), file)
                for file, image in zip(files, purified, strict=True)
            ]
        return result

    def _runs(self, values: list[Any]) -> Iterator[tuple[list[DecodedImage | None], list[Array]]]:
        """Decode rows until they have as many pixels as one image may have, again and again."""
        files: list[DecodedImage | None] = []
        images: list[Array] = []
        pixels = 0
        for value in values:
            if isinstance(value, bytes):
                file = decode_image(value, self._max_pixels)
                image = _in_order(file.pixels, self._color)
            else:
                file, image = None, _array(value, "an image")
            files.append(file)
            images.append(image)
            pixels += math.prod(image.shape[:2])
            if pixels >= self._max_pixels:
                yield files, images
                files, images, pixels = [], [], 0
        if images:
            yield files, images


def _in_order(pixels: Array, color: Colour) -> Array:
    """Swap between the BGR of an image file and the order of the arrays."""
    return pixels[..., ::-1] if pixels.ndim == 3 and color == "rgb" else pixels


def _encoded(pixels: Array, file: DecodedImage) -> bytes:
    """Encode an image as it was."""
    pixels = np.ascontiguousarray(pixels)
    return encode_image(pixels, file.format, alpha=file.alpha, lossless=file.lossless)


def _array(value: object, what: str) -> Array:
    """Make one array of an array, or of the nested arrays and lists that Parquet gives.

    Lists do not tell how wide their integers are: those of 0 to 255 become uint8.
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    if not isinstance(value, np.ndarray | list):
        raise ImageTypeError(f"expected {what} as an array, got {type(value).__name__}")
    parts = [_array(part, what) if isinstance(part, np.ndarray | list) else part for part in value]
    try:
        array = np.array(parts)
    except ValueError as error:
        raise ImageShapeError(f"expected {what} of one size, got {error}") from None
    if array.dtype.kind == "i" and array.size and 0 <= array.min() <= array.max() <= 255:
        return array.astype(np.uint8)
    return array


def _black(value: object) -> Array:
    """Stand in for an image that failed."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return np.zeros_like(value)
    return np.zeros((SIZE, SIZE, 3), np.uint8)


def _column(values: list[Array | bytes]) -> Array:
    """Put images into a column: one array where all are alike, else one object for each."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if arrays and len(arrays) == len(values) and len({(a.shape, a.dtype) for a in arrays}) == 1:
        return np.stack(arrays)
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = value
    return column
