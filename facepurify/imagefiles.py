"""Reading and writing image files, with hostile ones in mind.

What a file may hold is narrow on purpose: 8-bit grey or RGB, with or without alpha, one frame.
Everything else is refused with its reason rather than converted without a word. Metadata (EXIF,
colour profiles) is not carried over; the EXIF orientation is applied to the pixels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import ImageFileError, ImageTooLargeError, OutputError
from .files import atomic_path, writing
from .imageheaders import ImageHeader, read_header

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "DecodedImage",
    "decode_image",
    "encode_image",
    "format_of",
    "is_whole",
    "read_image",
    "write_image",
]

Pixels = NDArray[np.uint8]

SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WebP"}
"""The file name suffixes that are images, in lower case, and the format that each names."""

MAX_PIXELS = 100_000_000
"""The most pixels that are decoded, width times height, unless the caller says so."""

_MAX_BYTES = 1 << 29
_WEBP_LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]  # OpenCV: a quality above 100
if hasattr(cv2, "IMWRITE_WEBP_LOSSLESS_MODE"):  # older ones drop the colour where alpha is 0
    _WEBP_LOSSLESS += [
        cv2.IMWRITE_WEBP_LOSSLESS_MODE,
        cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR,
    ]
_QUALITY = 95


@dataclass(frozen=True)
class DecodedImage:
    """An image as it was in its file, upright.

    Attributes:
        format: ``"JPEG"``, ``"PNG"`` or ``"WebP"``.
        pixels: uint8, HxW (grey) or HxWx3 (BGR).
        alpha: uint8 HxW, or None.
        lossless: Whether the file stored the pixels as they were.
    """

    format: str
    pixels: Pixels
    alpha: Pixels | None
    lossless: bool


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Read a JPEG, PNG or WebP file.

    Its header is checked before anything is decoded, so that a small file cannot ask for a lot
    of memory, and a file that ends too early is not taken for a whole image. Whether the
    compressed data of a JPEG reach its last row is not checked: where somebody cut them and put
    an end-of-image marker behind, decoders fill the rest, and so does this.

    Args:
        path: The file. Its suffix must name the format that it has.
        max_pixels: The most pixels to decode, width times height.

    Returns:
        The image, turned upright by its EXIF orientation.

    Raises:
        ImageTooLargeError: More pixels than ``max_pixels``, or a file above 512 MiB.
        ImageFileError: Unreadable, cut short, damaged, another format or another one than its
            suffix says, animated, CMYK, or more than 8 bits a channel.
    """
    path = Path(path)
    try:
        image = decode_image(_read_bytes(path), max_pixels, SUFFIXES.get(path.suffix.lower(), ""))
    except ImageFileError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from None
    return image


def decode_image(
    data: bytes, max_pixels: int = MAX_PIXELS, suffixed: str | None = None
) -> DecodedImage:
    """Decode the bytes of a JPEG, PNG or WebP file, as :func:`read_image` does.

    Args:
        data: The bytes.
        max_pixels: The most pixels to decode, width times height.
        suffixed: The format that a file's suffix says it has; None if it has no name.

    Returns:
        The image, turned upright by its EXIF orientation.

    Raises:
        ImageFileError: As :func:`read_image`.

    Example:
        >>> decode_image(encode_image(np.zeros((20, 30), np.uint8), "PNG")).pixels.shape
        (20, 30)
    """
    if len(data) > _MAX_BYTES:
        raise ImageTooLargeError(f"expected at most {_MAX_BYTES:,} bytes, got {len(data):,}")
    header = read_header(data)
    if suffixed not in (None, header.format):
        suffixes = " or ".join(s for s, name in SUFFIXES.items() if name == header.format)
        raise ImageFileError(
            f"expected the suffix {suffixes} of the {header.format} that it is; rename it"
        )
    if header.width * header.height > max_pixels:
        raise ImageTooLargeError(
            f"expected at most {max_pixels:,} pixels, got {header.width}x{header.height}; "
            "scale it down"
        )
    decoded = _decode(header.content)
    if decoded is None or decoded.shape[:2] != (header.height, header.width):
        raise ImageFileError(f"expected a readable {header.format}, got a damaged one")
    return _split(decoded, header)


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is a whole image of the format that its suffix names.

    What :func:`write_image` wrote always is, unless the machine lost its power; nothing is
    decoded.

    Args:
        path: The file, which may be missing.
    """
    path = Path(path)
    try:
        return SUFFIXES.get(path.suffix.lower()) == read_header(_read_bytes(path)).format
    except ImageFileError:
        return False


def format_of(path: str | os.PathLike[str]) -> str:
    """Tell the format that the suffix of a file to write names.

    Args:
        path: The file.

    Returns:
        ``"JPEG"``, ``"PNG"`` or ``"WebP"``.

    Raises:
        OutputError: Another suffix.

    Example:
        >>> format_of("face.JPG")
        'JPEG'
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"expected a name that ends in {', '.join(SUFFIXES)}, got {path.name}")
    return SUFFIXES[suffix]


def write_image(
    path: str | os.PathLike[str],
    pixels: Pixels,
    *,
    alpha: Pixels | None = None,
    lossless: bool = True,
) -> None:
    """Write an image file, whole or not at all.

    Args:
        path: The file; its suffix chooses JPEG (quality 95), PNG or WebP. An older one is
            replaced.
        pixels: uint8, HxW (grey) or HxWx3 (BGR).
        alpha: uint8 HxW, or None. A grey image with alpha is written as BGR with alpha.
        lossless: Whether a WebP keeps the pixels as they are, or has quality 95. The colour of
            fully transparent pixels takes an OpenCV with ``IMWRITE_WEBP_LOSSLESS_MODE``.

    Raises:
        OutputError: Another suffix, alpha in a JPEG, an image that the format cannot hold, or
            a file that cannot be written.
    """
    path = Path(path)
    format = format_of(path)
    try:
        content = encode_image(pixels, format, alpha=alpha, lossless=lossless)
    except OutputError as error:
        raise OutputError(f"{path.name}: {error}") from None
    with writing(path), atomic_path(path) as temporary:
        temporary.write_bytes(content)


def encode_image(
    pixels: Pixels, format: str, *, alpha: Pixels | None = None, lossless: bool = True
) -> bytes:
    """Encode an image, as :func:`write_image` does.

    Args:
        pixels: uint8, HxW (grey) or HxWx3 (BGR).
        format: ``"JPEG"`` (quality 95), ``"PNG"`` or ``"WebP"``.
        alpha: uint8 HxW, or None. A grey image with alpha is encoded as BGR with alpha.
        lossless: Whether a WebP keeps the pixels as they are, or has quality 95. The colour of
            fully transparent pixels takes an OpenCV with ``IMWRITE_WEBP_LOSSLESS_MODE``.

    Returns:
        The bytes of a file.

    Raises:
        OutputError: Alpha in a JPEG, or an image that the format cannot hold.
    """
    if alpha is not None:
        if format == "JPEG":
            raise OutputError("expected a format with transparency, got a JPEG; use PNG")
        colour = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2)
        pixels = np.dstack([colour, alpha])
    options = {
        "JPEG": [cv2.IMWRITE_JPEG_QUALITY, _QUALITY],
        "PNG": [],
        "WebP": _WEBP_LOSSLESS if lossless else [cv2.IMWRITE_WEBP_QUALITY, _QUALITY],
    }
    try:
        written, content = cv2.imencode(f".{format.lower()}", pixels, options[format])
    except cv2.error as error:
        raise OutputError(f"could not encode a {format}: {error.err}") from None
    if not written:
        height, width = pixels.shape[:2]
        raise OutputError(f"could not encode {width}x{height} pixels as a {format}; use PNG")
    return content.tobytes()


def _read_bytes(path: Path) -> bytes:
    """Read a regular file of bounded size."""
    try:
        if not path.is_file():
            raise ImageFileError(f"expected an image file, got {path}; there is no such file")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:  # among them a name that is too long
        raise ImageFileError(f"could not read {path}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ImageTooLargeError(f"{path}: expected at most {_MAX_BYTES:,} bytes, got more")
    return data


def _decode(data: bytes) -> NDArray[Any] | None:
    """Decode to grey, BGR or BGRA as stored; None if the decoder gives up."""
    try:
        # unchanged: alpha is kept
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def _split(decoded: NDArray[Any], header: ImageHeader) -> DecodedImage:
    """Part colour and alpha, and turn both upright."""
    alpha = None
    if decoded.ndim == 3:
        if decoded.shape[2] == 4:
            alpha = _upright(decoded[..., 3], header.orientation)
        decoded = decoded[..., 0] if header.grey else decoded[..., :3]
    pixels = _upright(decoded, header.orientation)
    return DecodedImage(header.format, pixels, alpha, header.lossless)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo one of the eight EXIF orientations (5 to 8 are those with the axes swapped)."""
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels)
