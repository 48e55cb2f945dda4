"""What an image file says about itself, read before anything decodes it.

A decoder trusts the file: it allocates what the header asks for, and some hand out half an image
for half a file. These readers look at JPEG, PNG and WebP first, whole but cheaply, and hand on
what makes the pixels alone: the rest, a decoder would unpack and parse all the same (libpng keeps
8 MB of text for 8 kB of file, OpenCV 5 copies EXIF once for each of its entries).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from .errors import ImageFileError

__all__ = ["ImageHeader", "read_header"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # no stuffing, no restart, no fill
_JPEG_FIRST = 0xC0  # markers below are reserved, or of a length that decoders do not agree on
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}  # APP14 says how colours are coded
_JPEG_NOTHING = b"\xff\xfe\0\2"  # an empty comment
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_WEBP_PIXELS = (b"VP8X", b"ALPH", b"VP8 ", b"VP8L")
_WEBP_ALPHA = 0x10  # of VP8X's flags; the others announce metadata
_ORIENTATION = 0x0112  # EXIF tag
_WHOLE = {3: "H", 4: "I"}  # EXIF types: SHORT, which it ought to have, and LONG
_MAX_PARTS = 1_000_000  # chunks or segments, so that looking costs seconds at most
_MAX_SCANS = 64  # of a progressive JPEG; each may cost a pass over all pixels, for a few bytes


@dataclass(frozen=True)
class ImageHeader:
    """What a decoder will have to do.

    Attributes:
        format: ``"JPEG"``, ``"PNG"`` or ``"WebP"``.
        width: Width in pixels, as stored.
        height: Height in pixels, as stored.
        grey: Whether there is one channel, an alpha channel aside.
        lossless: Whether the pixels were stored as they were.
        orientation: The EXIF orientation, 1 (upright) to 8; of several the first, as elsewhere.
        content: The file for a decoder, without metadata.
    """

    format: str
    width: int
    height: int
    grey: bool
    lossless: bool
    orientation: int
    content: bytes


def read_header(data: bytes) -> ImageHeader:
    """Read the header of an image file, and check that the file is whole.

    Args:
        data: The bytes of the file.

    Returns:
        What it says about itself.

    Raises:
        ImageFileError: Neither JPEG, PNG nor WebP; cut short or damaged; more than 8 bits a
            channel; more or other channels than grey or RGB with alpha; animated; no pixels;
            made to take long.

    Example:
        >>> import cv2, numpy as np
        >>> data = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
        >>> header = read_header(data)
        >>> header.format, header.width, header.height
        ('PNG', 30, 20)
    """
    try:
        if data.startswith(b"\xff\xd8"):
            header = _read_jpeg(data)
        elif data.startswith(_PNG_SIGNATURE):
            header = _read_png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _read_webp(data)
        else:
            raise ImageFileError(
                f"expected a JPEG, PNG or WebP file, got one that starts with {data[:8]!r}"
            )
    except (struct.error, IndexError):
        raise ImageFileError("expected a whole image file, got one that is cut short") from None
    if header.width < 1 or header.height < 1:
        raise ImageFileError(f"expected pixels, got {header.width}x{header.height}")
    return header


def _read_jpeg(data: bytes) -> ImageHeader:
    """Walk the segments from the start to the end-of-image marker (ITU-T T.81, annex B)."""
    frame: tuple[int, int, int] | None = None
    exif: bytes | None = None
    scans = 0
    parts: list[bytes] = []
    copied, position = 0, 2
    for _ in range(_MAX_PARTS):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            raise IndexError
        marker = data[found.start() + 1]
        position = found.end()
        if marker == 0xD9:
            break
        if marker < _JPEG_FIRST:
            raise ImageFileError(f"expected no reserved markers in a JPEG, got {marker:#04x}")
        (length,) = struct.unpack_from(">H", data, position)
        if length < 2:
            raise ImageFileError(f"expected segments of 2 bytes or more in a JPEG, got {length}")
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 2)
            if frame is not None:
                raise ImageFileError("expected one frame in a JPEG, got several")
            if bits != 8:
                raise ImageFileError(f"expected 8 bits a channel, got {bits}; convert it to 8")
            if channels not in (1, 3):
                raise ImageFileError(
                    f"expected a grey or RGB JPEG, got {channels} channels (CMYK?); convert it"
                )
            frame = (width, height, channels)
        elif marker == 0xDA:
            scans += 1
            if scans > _MAX_SCANS:
                raise ImageFileError(f"expected at most {_MAX_SCANS} scans in a JPEG, got more")
        elif marker in _JPEG_METADATA:
            body = data[position + 2 : position + length]
            if marker == 0xE1 and exif is None and body.startswith(b"Exif\0\0"):
                exif = body[6:]
            # not left out: among the data of a scan, decoders stop at any marker
            parts += [data[copied : found.start()], _JPEG_NOTHING]
            copied = position + length
        position += length
    else:
        raise _too_many_parts()
    if frame is None:
        raise ImageFileError("expected a frame in a JPEG, got none")
    content = b"".join([*parts, data[copied:position]])
    return ImageHeader(
        "JPEG", frame[0], frame[1], frame[2] == 1, False, _read_orientation(exif or b""), content
    )


def _read_png(data: bytes) -> ImageHeader:
    """Walk the chunks up to IEND, checksums included (ISO/IEC 15948, clause 5)."""
    chunks: dict[bytes, bytes] = {}
    parts = [_PNG_SIGNATURE]
    position = len(_PNG_SIGNATURE)
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
            raise ImageFileError(f"expected intact PNG chunks, got a damaged {kind!r}")
        if not chunks and (kind, length) != (b"IHDR", 13):
            raise ImageFileError(f"expected a PNG to begin with IHDR, got {kind!r}")
        chunks.setdefault(kind, b"" if kind == b"IDAT" else data[position + 8 : end])
        if kind in _PNG_PIXELS:
            parts.append(data[position : end + 4])
        position = end + 4
        if kind == b"IEND":
            break
    else:
        raise _too_many_parts()
    if b"IDAT" not in chunks:
        # OpenCV 5 would go on looking for one behind the end
        raise ImageFileError("expected pixels (IDAT) in a PNG, got none")
    width, height, bits, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    if bits > 8:
        raise ImageFileError(f"expected 8 bits a channel, got {bits}; convert it to 8")
    if b"acTL" in chunks:
        raise ImageFileError("expected a still image, got an animated PNG; take single frames")
    grey = colour in (0, 4)
    if grey and b"tRNS" in chunks:
        # OpenCV would drop it without a word
        raise ImageFileError(
            "expected transparency as an alpha channel, got a transparent grey level; convert it"
        )
    orientation = _read_orientation(chunks.get(b"eXIf", b""))
    return ImageHeader("PNG", width, height, grey, True, orientation, b"".join(parts))


def _read_webp(data: bytes) -> ImageHeader:
    """Walk the RIFF chunks (RFC 9649)."""
    (size,) = struct.unpack_from("<I", data, 4)
    end = size + 8
    if end > len(data):
        raise IndexError
    sizes: set[tuple[int, int]] = set()
    lossless = False
    exif: bytes | None = None
    parts: list[bytes] = []
    position = 12
    for _ in range(_MAX_PARTS):
        if position + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : min(position + 8 + length, end)]
        if len(body) < length:
            raise IndexError
        if kind in (b"ANIM", b"ANMF") or (kind == b"VP8X" and body[0] & 0x02):
            raise ImageFileError("expected a still image, got an animated WebP; take single frames")
        if kind == b"VP8X":
            width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
            sizes.add((width, height))
            body = bytes([body[0] & _WEBP_ALPHA]) + body[1:]
        elif kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", body, 6)
            sizes.add((width & 0x3FFF, height & 0x3FFF))
        elif kind == b"VP8L":
            (packed,) = struct.unpack_from("<I", body, 1)
            sizes.add(((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1))
            lossless = True
        elif kind == b"EXIF" and exif is None:
            exif = body.removeprefix(b"Exif\0\0")
        if kind in _WEBP_PIXELS:
            parts += [struct.pack("<4sI", kind, length), body, bytes(length % 2)]
        position += 8 + length + length % 2
    else:
        raise _too_many_parts()
    if len(sizes) != 1:
        raise ImageFileError(f"expected one size in a WebP, got {sorted(sizes)}")
    ((width, height),) = sizes
    chunks = b"".join(parts)
    content = struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WEBP") + chunks
    orientation = _read_orientation(exif or b"")
    return ImageHeader("WebP", width, height, False, lossless, orientation, content)


def _too_many_parts() -> ImageFileError:
    return ImageFileError(f"expected at most {_MAX_PARTS} parts in an image file, got more")


def _read_orientation(exif: bytes) -> int:
    """Find the orientation in a TIFF structure; a broken one leaves the image upright."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(entries):
            place = directory + 2 + 12 * entry
            tag, kind = struct.unpack_from(order + "HH", exif, place)
            if tag == _ORIENTATION:
                if kind not in _WHOLE:
                    return 1
                (value,) = struct.unpack_from(order + _WHOLE[kind], exif, place + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
