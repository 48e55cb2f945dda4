from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facepurify.bench.cache import Cache, digest, source_digest
from facepurify.errors import OutputError

ARRAYS = {"images": np.arange(6, dtype=np.uint8).reshape(2, 3), "names": np.array(["a", "bc"])}
KEY = digest("a key")


def test_what_is_kept_comes_back(tmp_path: Path):
    cache = Cache(tmp_path / "new" / "folder")
    assert cache.get(KEY) is None
    cache.put(KEY, ARRAYS)
    kept = Cache(tmp_path / "new" / "folder").get(KEY)
    assert kept is not None
    assert kept.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(kept[name], array, strict=True)


def test_nothing_but_the_entry_is_left_behind(tmp_path: Path):
    Cache(tmp_path).put(KEY, ARRAYS)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.npz"]


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_entry_counts_as_none(tmp_path: Path, keep: int):
    cache = Cache(tmp_path)
    cache.put(KEY, ARRAYS)
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:keep])
    assert cache.get(KEY) is None


@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_an_entry_with_another_byte_is_none_or_an_entry(place: float, value: int):
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        cache.put(KEY, ARRAYS)
        (path,) = Path(folder).glob("*/*.npz")
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] = value
        path.write_bytes(content)
        assert isinstance(cache.get(KEY), dict | None)


def test_a_pickled_entry_is_not_loaded(tmp_path: Path):
    cache = Cache(tmp_path)
    (tmp_path / KEY[:2]).mkdir()
    np.savez(tmp_path / KEY[:2] / f"{KEY}.npz", images=np.array([object()]))
    assert cache.get(KEY) is None


def test_a_full_disk_is_an_error_and_keeps_finished_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = Cache(tmp_path)
    cache.put(KEY, ARRAYS)

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match=r"the disk is full; finished work is kept in"):
        cache.put(digest("another"), ARRAYS)
    assert cache.get(KEY) is not None
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot make"):
        Cache(tmp_path / "file" / "cache")


@given(st.lists(st.text(max_size=3), min_size=2, max_size=4))
def test_digest_keeps_neighbours_apart(parts: list[str]):
    joined = ["".join(parts[:2]), *parts[2:]]
    assert digest(*parts) != digest(*joined)


def test_digest_sees_type_shape_and_order():
    values = np.zeros(4, np.uint8)
    assert digest(values) != digest(values.view(np.int8))
    assert digest(values) != digest(values.reshape(2, 2))
    turned = np.arange(6).reshape(2, 3)
    assert digest(np.asfortranarray(turned)) == digest(turned)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_source_digest_is_that_of_the_files():
    assert source_digest("errors.py") != source_digest("files.py")
    assert source_digest("errors.py", "e*rors.py") == source_digest("errors.py")
