"""Image files: what is read and written faithfully, and what is refused before it is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from facepurify import ImageFileError, ImageTooLargeError, OutputError
from facepurify.imagefiles import decode_image, read_image, write_image
from facepurify.imageheaders import read_header

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 255, (20, 30), dtype=np.uint8)
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


def encode(image: Image.Image, suffix: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[suffix], **options)
    return buffer.getvalue()


JPEG = encode(Image.fromarray(COLOUR), ".jpg")
FRAME = JPEG[JPEG.index(b"\xff\xc0") :][:19]  # marker, length, bits, size, three channels


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header says a size, and which has hardly any pixels."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(bytes(100)))
        + png_chunk(b"IEND", b"")
    )


def jpeg_of(width: int, height: int) -> bytes:
    """A real JPEG whose frame header says another size."""
    data = bytearray(JPEG)
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_of(width: int, height: int) -> bytes:
    """A real lossless WebP whose stream says another size."""
    data = bytearray(encode(Image.fromarray(COLOUR), ".webp", lossless=True))
    stream = data.index(b"VP8L") + 9
    data[stream : stream + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(data)


def save(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".PNG"])
@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    with_alpha=st.booleans(),
)
def test_lossless_round_trip(tmp_path_factory, suffix, pixels, with_alpha):
    path = tmp_path_factory.mktemp("images") / f"image{suffix}"
    # an older OpenCV drops the colour of transparent WebP pixels, and any the alpha of opaque ones
    alpha = np.where(pixels[..., 0] > 100, 1, 254).astype(np.uint8) if with_alpha else None
    write_image(path, pixels, alpha=alpha)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, pixels)
    np.testing.assert_array_equal(image.alpha, alpha)
    assert image.lossless


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_the_colour_of_transparent_pixels_is_kept(tmp_path, suffix):
    if suffix == ".webp" and not hasattr(cv2, "IMWRITE_WEBP_LOSSLESS_MODE"):
        pytest.skip("this OpenCV cannot")
    alpha = ALPHA // 128 * 200
    write_image(tmp_path / f"image{suffix}", COLOUR, alpha=alpha)
    image = read_image(tmp_path / f"image{suffix}")
    np.testing.assert_array_equal(image.pixels, COLOUR)
    np.testing.assert_array_equal(image.alpha, alpha)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_files_come_back_close(tmp_path, suffix):
    smooth = cv2.resize(COLOUR[:4, :4], (64, 48), interpolation=cv2.INTER_LINEAR)
    write_image(tmp_path / f"image{suffix}", smooth, lossless=False)
    image = read_image(tmp_path / f"image{suffix}")
    assert not image.lossless
    assert np.abs(image.pixels.astype(int) - smooth).mean() < 6


def test_grey_stays_grey(tmp_path):
    for suffix in (".png", ".jpg"):
        path = tmp_path / f"grey{suffix}"
        write_image(path, ALPHA)
        assert read_image(path).pixels.shape == ALPHA.shape


def test_grey_with_alpha(tmp_path):
    grey = Image.fromarray(COLOUR).convert("L")
    source = Image.merge("LA", (grey, Image.fromarray(ALPHA)))
    image = read_image(save(tmp_path, "la.png", encode(source, ".png")))
    np.testing.assert_array_equal(image.pixels, grey)
    np.testing.assert_array_equal(image.alpha, ALPHA)
    write_image(tmp_path / "again.png", image.pixels, alpha=image.alpha)
    again = read_image(tmp_path / "again.png")
    np.testing.assert_array_equal(again.pixels, np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(again.alpha, ALPHA)


def test_palette_png(tmp_path):
    palette = Image.fromarray(COLOUR).quantize(16)
    image = read_image(save(tmp_path, "palette.png", encode(palette, ".png")))
    np.testing.assert_array_equal(image.pixels[..., ::-1], palette.convert("RGB"))
    assert image.alpha is None
    image = read_image(save(tmp_path, "clear.png", encode(palette, ".png", transparency=3)))
    np.testing.assert_array_equal(image.alpha == 0, np.asarray(palette) == 3)


def test_one_bit_png(tmp_path):
    bits = Image.fromarray(COLOUR).convert("1")
    image = read_image(save(tmp_path, "bits.png", encode(bits, ".png")))
    np.testing.assert_array_equal(image.pixels, bits.convert("L"))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(COLOUR), suffix, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    pixels = read_image(save(tmp_path, f"turned{suffix}", data)).pixels
    assert pixels.shape[:2] == (upright.height, upright.width)
    # two decoders of a lossy format differ a little
    difference = np.abs(pixels[..., ::-1].astype(int) - np.asarray(upright.convert("RGB")))
    assert difference.max() <= (0 if suffix == ".png" else 8)


def test_alpha_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    source = Image.fromarray(np.dstack([COLOUR, ALPHA]))
    image = read_image(save(tmp_path, "turned.png", encode(source, ".png", exif=exif)))
    np.testing.assert_array_equal(image.alpha, np.rot90(ALPHA, -1))


@pytest.mark.parametrize(
    "exif", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + bytes(9)]
)
def test_broken_exif_leaves_an_image_as_it_is(tmp_path, exif):
    data = encode(Image.fromarray(COLOUR), ".png")
    data = data[:33] + png_chunk(b"eXIf", exif) + data[33:]
    assert read_image(save(tmp_path, "image.png", data)).pixels.shape == COLOUR.shape


def tiff(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """An EXIF block with nothing but an orientation, as SHORT (3) or as LONG (4)."""
    value = struct.pack(order + ("H" if kind == 3 else "I"), orientation).ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 1)
    return start + struct.pack(order + "HHI", 0x0112, kind, 1) + value + bytes(4)


def with_exif(suffix: str, *blocks: bytes) -> bytes:
    """An image of 30x20 with several EXIF blocks."""
    data = encode(Image.fromarray(COLOUR), suffix)
    if suffix == ".jpg":
        segments = (b"Exif\0\0" + block for block in blocks)
        marked = (b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in segments)
        return data[:2] + b"".join(marked) + data[2:]
    if suffix == ".png":
        return data[:33] + b"".join(png_chunk(b"eXIf", each) for each in blocks) + data[33:]
    parts = (b"EXIF" + struct.pack("<I", len(each)) + each for each in blocks)
    chunks = data[12:] + b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("blocks", "turned"), [((6, 1), True), ((1, 6), False)])
def test_the_first_orientation_counts(suffix, blocks, turned):
    header = read_header(with_exif(suffix, *map(tiff, blocks)))
    assert (header.orientation == 6) is turned


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_an_orientation_of_either_width(order, kind):
    assert read_header(with_exif(".png", tiff(8, order, kind))).orientation == 8


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_decoder_gets_no_metadata(suffix):
    # ImageDescription, 4,000 times the block's own length: OpenCV 5 copies each
    entry = struct.pack("<HHII", 0x010E, 2, 1 << 15, 16)
    slow = b"II*\0" + struct.pack("<IH", 8, 4000) + 4000 * entry + b"SECRET"
    data = with_exif(suffix, slow)
    if suffix == ".png":
        text = b"k\0\0" + zlib.compress(bytes(8_000_000))  # libpng keeps it unpacked
        data = data[:33] + png_chunk(b"zTXt", text) + data[33:]
    if suffix == ".jpg":
        data = data[:-2] + b"\xff\xfe\0\x08SECRET" + data[-2:]
    header = read_header(data)
    assert b"SECRET" in data
    assert b"SECRET" not in header.content
    plain = encode(Image.fromarray(COLOUR), suffix)
    assert len(header.content) <= len(plain) + 8
    np.testing.assert_array_equal(decode_image(data).pixels, decode_image(plain).pixels)


@pytest.mark.parametrize(
    ("suffix", "mode", "options"),
    [
        (".png", "RGBA", {}),
        (".png", "P", {"transparency": 3}),
        (".png", "L", {"gamma": 0.5}),
        (".jpg", "RGB", {"keep_rgb": True}),
        (".jpg", "RGB", {"progressive": True, "comment": b"a comment"}),
        (".webp", "RGBA", {"lossless": True}),
        (".webp", "RGBA", {"quality": 50}),
    ],
)
def test_without_metadata_the_pixels_are_the_same(suffix, mode, options):
    source = Image.fromarray(np.dstack([COLOUR, ALPHA]))
    more = {"icc_profile": bytes(131), "exif": tiff(1)}
    data = encode(source.convert(mode), suffix, **more, **options)
    header = read_header(data)
    assert len(header.content) < len(data)
    for flag in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_COLOR):
        ours, theirs = (
            cv2.imdecode(np.frombuffer(each, np.uint8), flag) for each in (header.content, data)
        )
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bomb.png", png_of(60_000, 60_000)),
        ("bomb.jpg", jpeg_of(60_000, 60_000)),
        ("bomb.webp", webp_of(16_000, 16_000)),
    ],
)
def test_bombs_are_refused_before_decoding(tmp_path, monkeypatch, name, data):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageTooLargeError, match="expected at most 100,000,000 pixels"):
        read_image(save(tmp_path, name, data))


def test_the_pixel_cap_is_exact(tmp_path):
    path = save(tmp_path, "image.png", encode(Image.fromarray(COLOUR), ".png"))
    assert read_image(path, max_pixels=600).pixels.size == 1800
    with pytest.raises(ImageTooLargeError, match="got 30x20"):
        read_image(path, max_pixels=599)


@pytest.mark.parametrize("suffix", FORMATS)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_files(suffix, share):
    data = encode(Image.fromarray(COLOUR), suffix)
    with pytest.raises(ImageFileError):
        read_header(data[: int(share * len(data))])


@pytest.mark.parametrize("suffix", FORMATS)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, suffix, data):
    content = bytearray(encode(Image.fromarray(COLOUR), suffix))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = save(tmp_path_factory.mktemp("damaged"), f"image{suffix}", bytes(content))
    try:
        image = read_image(path, max_pixels=100_000)
    except ImageFileError:
        return
    assert image.pixels.dtype == np.uint8


def test_a_jpeg_that_shows_decoders_another_size(tmp_path, monkeypatch):
    # After FF 01 a decoder goes on at once; whoever reads a length there jumps over a frame of
    # 20000x20000, lands at one of 30x20, and lets 1.2 GB be decoded.
    jump = 0xFFE0
    huge = b"\xff\xe0\x00\x02" + jpeg_of(20_000, 20_000)[2:]
    data = b"\xff\xd8\xff\x01" + huge + bytes(jump - len(huge)) + JPEG[2:]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageFileError, match="reserved markers in a JPEG, got 0x01"):
        read_image(save(tmp_path, "image.jpg", data))


def test_a_jpeg_of_many_scans(tmp_path, monkeypatch):
    # each costs the decoder a pass over the image, and the file a few bytes
    data = encode(Image.fromarray(COLOUR), ".jpg", progressive=True)
    assert read_image(save(tmp_path, "image.jpg", data)).pixels.shape == COLOUR.shape
    last = data[data.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageFileError, match="at most 64 scans"):
        read_image(save(tmp_path, "bomb.jpg", data[:-2] + 100 * last + data[-2:]))


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:2] + 20 * b"\xff\xe0\x00\x02" + JPEG[2:],
        png_of(3, 2)[:33] + 20 * png_chunk(b"teXt", b"") + png_of(3, 2)[33:],
        b"RIFF" + struct.pack("<I", 4 + 20 * 8) + b"WEBP" + 20 * (b"JUNK" + bytes(4)),
    ],
)
def test_the_number_of_parts_is_bounded(monkeypatch, data):
    monkeypatch.setattr("facepurify.imageheaders._MAX_PARTS", 20)
    with pytest.raises(ImageFileError, match="at most 20 parts"):
        read_header(data)


def test_a_damaged_png_chunk(tmp_path):
    data = bytearray(encode(Image.fromarray(COLOUR), ".png"))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(ImageFileError, match="damaged b'IDAT'"):
        read_image(save(tmp_path, "image.png", bytes(data)))


def test_less_pixels_than_the_header_says(tmp_path):
    with pytest.raises(ImageFileError, match="damaged"):
        read_image(save(tmp_path, "image.png", png_of(300, 200)))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.png", b"", "expected a JPEG, PNG or WebP"),
        ("text.jpg", b"no image at all", "expected a JPEG, PNG or WebP"),
        ("image.png", encode(Image.fromarray(COLOUR), ".jpg"), "suffix .jpg or .jpeg"),
        ("image.tif", encode(Image.fromarray(COLOUR), ".png"), "suffix .png"),
        ("two.jpg", JPEG[:2] + FRAME + JPEG[2:], "expected one frame"),
        ("none.jpg", JPEG[:2] + b"\xff\xd9", "expected a frame"),
        ("short.jpg", JPEG[:2] + b"\xff\xe1\0\1" + JPEG[2:], "2 bytes or more in a JPEG, got 1"),
        ("twelve.jpg", JPEG.replace(FRAME[:5], FRAME[:4] + b"\x0c"), "8 bits a channel, got 12"),
        ("zero.png", png_of(0, 20), "expected pixels, got 0x20"),
        ("zero.jpg", jpeg_of(30, 0), "expected pixels, got 30x0"),
        ("cmyk.jpg", encode(Image.fromarray(COLOUR).convert("CMYK"), ".jpg"), "4 channels"),
        (
            "deep.png",
            cv2.imencode(".png", COLOUR.astype(np.uint16) * 257)[1].tobytes(),
            "expected 8 bits a channel, got 16",
        ),
        (
            "level.png",
            encode(Image.fromarray(ALPHA), ".png", transparency=3),
            "transparent grey level",
        ),
        (
            # behind IEND the decoder would find a chunk of 4 GiB
            "nothing.png",
            png_of(3, 2)[:33] + png_chunk(b"IEND", b"") + b"\xff\xff\xff\xffIEND",
            r"expected pixels \(IDAT\)",
        ),
        ("headless.png", b"\x89PNG\r\n\x1a\n" + png_chunk(b"IEND", b""), "begin with IHDR"),
    ],
)
def test_refused_files(tmp_path, name, data, message):
    with pytest.raises(ImageFileError, match=message):
        read_image(save(tmp_path, name, data))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif"])
def test_animations_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    path = tmp_path / f"moving{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFileError, match=r"animated|JPEG, PNG or WebP"):
        read_image(path)


def test_webp_with_two_sizes(tmp_path):
    data = bytearray(encode(Image.fromarray(np.dstack([COLOUR, ALPHA])), ".webp"))
    width = data.index(b"VP8X") + 12
    data[width] += 1
    with pytest.raises(ImageFileError, match="expected one size"):
        read_image(save(tmp_path, "image.webp", bytes(data)))


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.png"):
        with pytest.raises(ImageFileError, match="no such file"):
            read_image(path)


def test_a_name_that_nobody_can_look_at(tmp_path):
    with pytest.raises(ImageFileError, match=r"could not read|no such file"):
        read_image(tmp_path / ("x" * 300 + ".png"))


@pytest.mark.parametrize(
    ("name", "alpha", "message"),
    [
        ("image.tif", None, "expected a name that ends in"),
        ("image.jpg", ALPHA, "expected a format with transparency"),
        ("missing/image.png", None, "expected a folder"),
    ],
)
def test_refused_outputs(tmp_path, name, alpha, message):
    with pytest.raises(OutputError, match=message):
        write_image(tmp_path / name, COLOUR, alpha=alpha)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_the_format_cannot_hold(tmp_path):
    with pytest.raises(OutputError, match=r"image\.webp: could not encode .*use PNG"):
        write_image(tmp_path / "image.webp", np.zeros((1, 20_000, 3), np.uint8))


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = save(tmp_path, "image.png", b"old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        write_image(path, COLOUR)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
