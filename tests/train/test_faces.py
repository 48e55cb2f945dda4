"""Training faces: packing, what is held out, what is left out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facepurify.errors import DataError
from facepurify.train.faces import FaceSet, load_faces


def test_pixels_are_rgb_in_file_order(folders: list[Path], faces: FaceSet) -> None:
    first = cv2.imread(str(folders[0] / "p00" / "0.png"))
    assert faces.names[0] == "people/p00/0.png"
    assert np.array_equal(faces.images[0], first[..., ::-1])
    assert len(faces) == 24 * 3 + 12


def test_an_identity_is_held_out_whole(faces: FaceSet) -> None:
    people = {faces.identity(i): set() for i in range(24 * 3)}
    for i in range(24 * 3):
        people[faces.identity(i)].add(bool(faces.held_out[i]))
    assert all(len(kinds) == 1 for kinds in people.values())
    assert faces.validation.size
    assert faces.training.size > 5 * faces.validation.size / 2
    assert not set(faces.training) & set(faces.validation)


def test_the_second_call_reads_the_cache(folders: list[Path], tmp_path: Path) -> None:
    load_faces(folders, tmp_path)
    (packed,) = tmp_path.glob("*.raw")
    before = packed.stat().st_mtime_ns
    again = load_faces(folders, tmp_path)
    assert packed.stat().st_mtime_ns == before
    assert again.images.shape == (84, 112, 112, 3)


def test_black_wedges_and_broken_files_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    face = np.full((112, 112, 3), 120, np.uint8)
    cv2.imwrite(str(folder / "good.png"), face)
    face[:40] = 0
    cv2.imwrite(str(folder / "wedge.png"), face)
    (folder / "broken.jpg").write_bytes(b"no image")
    loaded = load_faces([folder], tmp_path / "cache")
    assert loaded.names == ("set/good.png",)
    assert loaded.skipped == {"black": 1, "unreadable": 1}


def test_bad_folders_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_faces([tmp_path / "nowhere"], tmp_path)
    with pytest.raises(DataError, match="no image"):
        load_faces([tmp_path], tmp_path / "cache")
    cv2.imwrite(str(tmp_path / "small.png"), np.full((100, 112, 3), 99, np.uint8))
    with pytest.raises(DataError, match=r"112 x 100 in .*small\.png: align"):
        load_faces([tmp_path], tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_set_goes_by_the_last_name_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = np.full((112, 112, 3), 120, np.uint8)
    for folder in ("a/train/p0", "a/train/p1", "b/train/p0"):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "0.png"), face)
    monkeypatch.chdir(tmp_path / "a" / "train")
    here = load_faces(["."], tmp_path / "cache")
    assert here.names == load_faces([tmp_path / "a" / "train"], tmp_path / "cache").names
    assert here.names == ("train/p0/0.png", "train/p1/0.png")
    assert here.labels().tolist() == [0, 1]
    with pytest.raises(DataError, match=r"different names, got \. and .*b/train: rename one"):
        load_faces([".", tmp_path / "b" / "train"], tmp_path / "cache")


def test_the_folder_that_an_archive_makes_is_no_identity(tmp_path: Path) -> None:
    face = np.full((112, 112, 3), 120, np.uint8)
    for name in ("flat/0.png", "flat/1.png", "people/p0/0.png", "people/p1/0.png"):
        path = tmp_path / Path(name).parts[0] / name  # flat/flat/0.png
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), face)
    outer = [tmp_path / "flat", tmp_path / "people"]
    faces = load_faces(outer, tmp_path / "cache")
    assert faces.names == load_faces([f / f.name for f in outer], tmp_path / "cache").names
    assert faces.labels().tolist() == [-1, -1, 0, 1]
    assert faces.summary() == (
        f"4 faces, {faces.held_out.sum()} of them held out; 2 identities of up to 1 faces; "
        "left out: 0 black, 0 unreadable"
    )


def test_other_files_of_the_same_names_have_another_digest(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "0.png"), np.full((112, 112, 3), 120, np.uint8))
    first = load_faces([folder], tmp_path / "cache")
    assert load_faces([folder], tmp_path / "cache").digest == first.digest
    cv2.imwrite(str(folder / "0.png"), rng.integers(0, 255, (112, 112, 3), np.uint8))
    again = load_faces([folder], tmp_path / "cache")
    assert again.names == first.names
    assert again.digest != first.digest


def test_another_file_of_the_same_size_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "set" / "0.png"
    path.parent.mkdir()
    digests = []
    for grey in (120, 200):
        cv2.imwrite(str(path), np.full((112, 112, 3), grey, np.uint8))
        size = path.stat().st_size
        path.write_bytes(path.read_bytes().ljust(4096, b"\0"))
        assert size < path.stat().st_size
        faces = load_faces([path.parent], tmp_path / "cache")
        assert (faces.images == grey).all()
        digests.append(faces.digest)
    assert digests[0] != digests[1]
