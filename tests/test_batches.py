"""Columns of images, by hand and on a Ray cluster of two workers of which one dies."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facepurify import (
    DataError,
    FacePurifyError,
    ImageFileError,
    ImageShapeError,
    ImageTooLargeError,
    ModelOutputError,
    OptionError,
    Purifier,
)
from facepurify.batches import PurifyBatch
from facepurify.imagefiles import decode_image, encode_image
from facepurify.images import Array

ROOT = Path(__file__).parents[1]


def crops(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, 112, 112, 3), np.uint8)


def objects(*values: object) -> Array:
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = value
    return column


def nested(image: Array) -> Array:
    """An image as Parquet's lists of lists come out of Ray."""
    return objects(*(objects(*row) for row in image))


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_arrays(tiny_model: Path, color: str) -> None:
    images = crops(3)
    images[..., 0] //= 4
    purify = PurifyBatch("face", model=str(tiny_model), color=color)
    out = purify({"face": images, "id": np.arange(3)})
    expected = Purifier(tiny_model, threads=1).purify(images, color=color)
    np.testing.assert_array_equal(out["face"], expected)
    np.testing.assert_array_equal(out["id"], np.arange(3))
    assert set(out) == {"face", "id"}
    lists = purify({"face": objects(*map(nested, images))})
    np.testing.assert_array_equal(lists["face"], expected)
    as_bgr = Purifier(tiny_model, threads=1).purify(images)
    assert np.array_equal(as_bgr, expected) == (color == "bgr")


def test_sizes_may_differ(invert_model: Path) -> None:
    images = [crops(1)[0], crops(1)[0, :60, :50], crops(1)[0, ..., 0]]
    out = PurifyBatch(model=str(invert_model))({"image": objects(*images)})
    assert [image.shape for image in out["image"]] == [image.shape for image in images]
    np.testing.assert_array_equal(out["image"][0], 255 - images[0])


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_encoded_images_stay_what_they_are(tiny_model: Path, color: str) -> None:
    pixels, alpha = crops(1)[0], np.arange(112 * 112).reshape(112, 112).astype(np.uint8) // 2 + 1
    files = [
        encode_image(pixels, "PNG", alpha=alpha),
        encode_image(pixels[..., 0], "PNG"),
        encode_image(pixels, "WebP"),
        encode_image(pixels, "WebP", lossless=False),
        encode_image(pixels, "JPEG"),
    ]
    out = PurifyBatch(model=str(tiny_model), color=color)({"image": objects(*files)})["image"]
    purifier = Purifier(tiny_model, threads=1)
    for before, after in zip(map(decode_image, files), map(decode_image, out), strict=True):
        assert (after.format, after.lossless) == (before.format, before.lossless)
        if after.lossless:
            np.testing.assert_array_equal(after.pixels, purifier.purify(before.pixels))
    np.testing.assert_array_equal(decode_image(out[0]).alpha, alpha)


def test_a_batch_of_large_images_is_done_in_runs(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = crops(5)
    files = objects(*(encode_image(image, "PNG") for image in images))
    whole = PurifyBatch(model=str(tiny_model))({"image": files})["image"]
    runs = []
    purify = Purifier.purify

    def counted(self: Purifier, images: list[Array], **options: object) -> object:
        runs.append(len(images))
        return purify(self, images, **options)

    monkeypatch.setattr(Purifier, "purify", counted)
    small = PurifyBatch(model=str(tiny_model), max_pixels=2 * 112 * 112)
    assert list(small({"image": files})["image"]) == list(whole)
    assert runs == [2, 2, 1]
    with pytest.raises(ImageTooLargeError, match="at most 12,543 pixels"):
        PurifyBatch(model=str(tiny_model), max_pixels=112 * 112 - 1)({"image": files})


def test_photos_with_landmarks(tiny_model: Path, photo: Array, landmarks: Array) -> None:
    column = objects(*(objects(*map(list, face)) for face in landmarks[:1]), landmarks[1:3])
    batch = {"image": np.stack([photo, photo]), "faces": column}
    out = PurifyBatch(model=str(tiny_model), landmarks="faces", color="bgr")(batch)["image"]
    purifier = Purifier(tiny_model, threads=1)
    np.testing.assert_array_equal(out[0], purifier.purify(photo, landmarks=landmarks[0]))
    np.testing.assert_array_equal(out[1], purifier.purify(photo, landmarks=landmarks[1:3]))


def test_what_fails_is_never_passed_on(tiny_model: Path) -> None:
    image = encode_image(crops(1)[0], "PNG")
    batch = {"image": objects(image, b"no image", None, image[:90])}
    out = PurifyBatch(model=str(tiny_model), errors="why")(batch)
    assert list(out["image"][1:]) == [b"", b"", b""]
    assert out["image"][0] == PurifyBatch(model=str(tiny_model))({"image": objects(image)})["image"]
    assert out["why"][0] == ""
    for row, reason in ((1, "JPEG, PNG or WebP"), (2, "got NoneType"), (3, "cut short")):
        assert reason in out["why"][row]
    with pytest.raises(ImageFileError):
        PurifyBatch(model=str(tiny_model))(batch)

    ragged = objects(np.zeros(3, np.uint8), np.zeros(4, np.uint8))
    arrays = objects(crops(1)[0], crops(1)[0].astype(np.int16), ragged)
    out = PurifyBatch(model=str(tiny_model), errors="why")({"image": arrays})
    assert out["image"][0].any()
    assert not out["image"][1].any()
    assert not out["image"][2].any()
    assert "of one size" in out["why"][2]
    with pytest.raises(ImageShapeError, match="of one size"):
        PurifyBatch(model=str(tiny_model))({"image": objects(ragged)})


def test_lists_of_python_numbers(invert_model: Path) -> None:
    image = crops(1)[0]
    purify = PurifyBatch(model=str(invert_model), errors="why")
    wide = objects(*(objects(*row.astype(np.int64)) for row in image))  # as Parquet's integers
    floats = (image / 255).tolist()
    out = purify({"image": objects(image.tolist(), wide, floats, (image + 256.0).tolist())})
    assert [value.dtype for value in out["image"]] == ["uint8", "uint8", "float64", "uint8"]
    for value in out["image"][:2]:
        np.testing.assert_array_equal(value, 255 - image)
    np.testing.assert_allclose(out["image"][2], 1 - image / 255, atol=1e-6)
    assert list(map(bool, out["why"])) == [False, False, False, True]
    out = purify({"image": objects((image.astype(int) * 2).tolist())})
    assert "got int64" in out["why"][0]


@pytest.mark.parametrize("none", [[], objects(), np.zeros((0, 5, 2)), np.zeros(0)])
def test_photos_without_faces(invert_model: Path, none: object) -> None:
    photos = crops(2)
    purify = PurifyBatch(model=str(invert_model), landmarks="faces")
    out = purify({"image": photos, "faces": objects(none, none)})
    np.testing.assert_array_equal(out["image"], photos)


@pytest.mark.parametrize("values", [[None], [None, b"no image"]])
def test_an_encoded_column_stays_one_without_bytes(tiny_model: Path, values: list[object]) -> None:
    out = PurifyBatch(model=str(tiny_model), errors="why")({"image": objects(*values)})
    assert list(out["image"]) == [b""] * len(values)
    assert all(out["why"])


def test_an_empty_batch(tiny_model: Path) -> None:
    out = PurifyBatch(model=str(tiny_model), errors="error")({"image": crops(0)})
    assert len(out["image"]) == len(out["error"]) == 0


def test_an_array_without_channels_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ImageShapeError, match="expected image 0 of the list"):
        PurifyBatch(model=str(tiny_model))({"image": np.zeros((1, 112, 112, 0), np.uint8)})


def test_wrong_arguments(tiny_model: Path) -> None:
    with pytest.raises(OptionError, match="color"):
        PurifyBatch(model=str(tiny_model), color="grey")
    for arguments in ({"column": "face"}, {"landmarks": "face"}):
        with pytest.raises(DataError, match="a column 'face', the columns are: image"):
            PurifyBatch(model=str(tiny_model), **arguments)({"image": crops(1)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "expected a seed"),
        ({"max_pixels": 0}, "expected max_pixels"),
        ({"max_pixels": "many"}, "expected max_pixels"),
        ({"errors": "image"}, "expected errors to name a new column, got 'image'"),
        ({"errors": "faces", "landmarks": "faces"}, "expected errors to name a new column"),
    ],
)
def test_an_option_is_not_taken_for_an_error_of_all_rows(
    tiny_model: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        PurifyBatch(model=str(tiny_model), **{"errors": "why", **arguments})  # type: ignore[arg-type]


def test_errors_do_not_replace_a_column(tiny_model: Path) -> None:
    with pytest.raises(DataError, match="expected no column 'id' yet"):
        PurifyBatch(model=str(tiny_model), errors="id")({"image": crops(1), "id": np.arange(1)})


def test_a_model_that_fails_is_no_error_of_the_rows(tiny_model: Path) -> None:
    purify = PurifyBatch(model=str(tiny_model), errors="why")

    def fail(*_: object, **__: object) -> object:
        raise ModelOutputError("the model failed: no reason")

    purify._purifier.purify = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(ModelOutputError, match="no reason"):
        purify({"image": crops(2)})


def test_pickle(tiny_model: Path) -> None:
    purify = PurifyBatch(model=str(tiny_model), mask="sampled", seed=3)
    again = pickle.loads(pickle.dumps(purify))
    batch = {"image": crops(2)}
    np.testing.assert_array_equal(again(batch)["image"], purify(batch)["image"])


# The README's lines, with a worker that is killed in the middle of its first batch.
CLUSTER = """
import os, signal, sys
import numpy as np
import pyarrow as pa, pyarrow.parquet as pq
import ray
from facepurify import Purifier, batches
from facepurify.imagefiles import decode_image, encode_image

lines, work = sys.argv[1:]
os.chdir(work)
crops = np.random.default_rng(0).integers(0, 256, (96, 112, 112, 3), np.uint8)
os.mkdir("gallery")
for part in range(6):
    rows = range(16 * part, 16 * part + 16)
    images = [encode_image(crops[row], "PNG") for row in rows]
    if part == 5:
        images[-1] = b"broken"
    pq.write_table(pa.table({"id": list(rows), "image": images}), f"gallery/{part}.parquet")

class Mortal(batches.PurifyBatch):
    def __call__(self, batch):
        with open(f"{work}/workers", "a") as file:
            file.write(f"{os.getpid()}\\n")
        if 40 in batch["id"] and not os.path.exists(f"{work}/died"):
            open(f"{work}/died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)

batches.PurifyBatch = Mortal
ray.init(num_cpus=3, include_dashboard=False, object_store_memory=100_000_000)
ray.data.DataContext.get_current().target_max_block_size = 200_000  # so that there is work for two
exec(lines.replace("batch_size=64", "batch_size=8"))
assert os.path.exists("died")
workers = set(open("workers").read().split())
assert len(workers) == 3, workers  # two, and the one that came for the dead
table = pq.read_table("purified").to_pydict()
rows = sorted(zip(table["id"], table["image"], table["error"]))
assert [row[0] for row in rows] == list(range(96))
with Purifier(threads=1) as purifier:
    for number, image, error in rows[:95]:
        assert error == ""
        alone = purifier.purify(crops[number])
        # a matrix product may round differently in a batch
        assert abs(decode_image(image).pixels.astype(int) - alone).max() <= 1, number
assert rows[95][1] == b"" and "JPEG, PNG or WebP" in rows[95][2]
print("all purified")
"""


def a_file() -> bytes:
    return encode_image(crops(1)[0], "PNG")


CELLS = (
    hnp.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.bool_]),
        st.sampled_from([(9, 7, 3), (9, 7), (9, 7, 4), (0, 7, 3), (3,), (5, 2), (2, 5, 2)]),
    )
    | st.none()
    | st.integers()
    | st.text(max_size=3)
    | st.binary(max_size=9)
    | st.builds(a_file)  # not st.just: hypothesis writes that out, and warns of its length
    | st.recursive(st.integers(-1, 256) | st.none(), lambda x: st.lists(x, max_size=3))
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, about numbers that are none
@settings(max_examples=200, deadline=None)
@given(cells=st.lists(st.tuples(CELLS, CELLS), max_size=3), located=st.booleans())
def test_any_column_is_purified_or_refused(
    tiny_model: Path, cells: list[tuple[object, object]], located: bool
) -> None:
    batch = {
        "image": objects(*(image for image, _ in cells)),
        "points": objects(*(points for _, points in cells)),
    }
    options = {"model": str(tiny_model), "landmarks": "points" if located else None}
    with contextlib.suppress(FacePurifyError):
        assert len(PurifyBatch(**options)(batch)["image"]) == len(cells)
    # With a column of errors no row ends the others' job.
    done = PurifyBatch(**options, errors="why")(batch)
    assert len(done["image"]) == len(done["why"]) == len(cells)


@pytest.mark.skipif(
    not (util.find_spec("ray") and util.find_spec("pyarrow")), reason="needs the extra ray"
)
def test_the_readme_on_a_cluster_that_loses_a_worker(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(import ray\n.*?)```", readme, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, lines, str(tmp_path)],
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "all purified" in done.stdout.splitlines(), done.stdout[-3000:]
