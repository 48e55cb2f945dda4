from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepurify.bench.binpack import read_pack
from facepurify.bench.pairs import (
    Pairs,
    attacked_pairs,
    load_pairs,
    read_bin,
    read_identities,
    read_lfw,
)
from facepurify.errors import DataError

LFW = "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\nBob\t1\t2\nBob\t2\tCid\t1\n"


def face(level: int) -> np.ndarray:
    return np.full((112, 112, 3), level, np.uint8)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three people, of 2, 2 and 1 faces, told apart by grey level."""
    folder = tmp_path / "people"
    for level, (name, count) in enumerate({"Ann": 2, "Bob": 2, "Cid": 1}.items()):
        (folder / name).mkdir(parents=True)
        for number in range(1, count + 1):
            path = folder / name / f"{name}_{number:04d}.png"
            cv2.imwrite(str(path), face(50 * level + number))
    return folder


def levels(pairs: Pairs, indices: np.ndarray) -> list[list[int]]:
    return pairs.images[indices][:, :, 0, 0, 0].tolist()


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_lfw_format(people: Path, tmp_path: Path):
    pairs = load_pairs(people, write(tmp_path / "pairs.txt", LFW), seed=0)
    assert levels(pairs, pairs.genuine) == [[1, 2], [51, 52]]
    assert levels(pairs, pairs.impostor) == [[1, 51], [52, 101]]
    assert pairs.genuine_folds.tolist() == pairs.impostor_folds.tolist() == [0, 1]
    assert len(pairs.images) == 5
    assert pairs.name == "pairs"


def test_images_are_rgb(tmp_path: Path):
    (tmp_path / "Ann").mkdir()
    blue = np.zeros((112, 112, 3), np.uint8)
    blue[..., 0] = 255
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / "Ann" / f"Ann_{number:04d}.png"), blue)
    text = "2 1\n" + 2 * "Ann 1 2\nAnn 1 Ann 2\n"
    pairs = read_lfw(tmp_path, write(tmp_path / "pairs.txt", text))
    assert pairs.images[0, 0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "as the first line"),
        ("ten 300\n", "as the first line"),
        ("0 1\n", "as the first line"),
        ("1\t1\nAnn\t1\t2\n", "expected 2 pairs"),
        ("1\t1\nAnn\t1\ttwo\nAnn\t1\tBob\t1\n", "in line 2"),
        ("1\t1\nAnn\t1\nAnn\t1\tBob\t1\n", "in line 2"),
        ("1\t1\nAnn\t1\t2\nAnn\t1\tBob\t7\n", "Bob_0007"),
        ("1\t1\nAnn\t1\t2\nBob\t1\t2\n", "impostor pairs"),
        ("1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n", "at least two folds, got all in fold 0"),
    ],
)
def test_unreadable_pairs_are_refused(people: Path, tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message):
        read_lfw(people, write(tmp_path / "pairs.txt", text))


def test_missing_files_are_refused(people: Path, tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        load_pairs(tmp_path / "nowhere", None, seed=0)
    with pytest.raises(DataError, match="readable pairs file"):
        load_pairs(people, tmp_path / "nowhere.txt", seed=0)


def test_unaligned_and_damaged_faces_are_refused(people: Path, tmp_path: Path):
    pairs_file = write(tmp_path / "pairs.txt", LFW)
    path = people / "Bob" / "Bob_0001.png"
    cv2.imwrite(str(path), np.zeros((250, 240, 3), np.uint8))
    with pytest.raises(DataError, match=r"Bob_0001\.png is 240x250: align"):
        read_lfw(people, pairs_file)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"readable face, got .*Bob_0001\.png"):
        read_lfw(people, pairs_file)


def test_identities_are_drawn_by_seed_and_stay_in_one_fold(tmp_path: Path):
    for person in range(8):
        (tmp_path / str(person)).mkdir()
        for number in range(3):
            path = tmp_path / str(person) / f"{number}.png"
            cv2.imwrite(str(path), face(10 * person + number))
    pairs = read_identities(tmp_path, seed=1, count=12)
    again = read_identities(tmp_path, seed=1, count=12)
    other = read_identities(tmp_path, seed=2, count=12)
    assert pairs.sha256 == again.sha256 != other.sha256
    genuine, impostor = np.array(levels(pairs, pairs.genuine)), levels(pairs, pairs.impostor)
    impostor = np.array(impostor)
    assert len(genuine) == len(impostor) == 12
    assert (genuine[:, 0] // 10 == genuine[:, 1] // 10).all()
    assert (impostor[:, 0] // 10 != impostor[:, 1] // 10).all()
    assert len(np.unique(impostor, axis=0)) == 12
    folds: dict[int, set[int]] = {}
    for rows, fold in ((genuine, pairs.genuine_folds), (impostor, pairs.impostor_folds)):
        for row, number in zip(rows, fold, strict=True):
            for level in row:
                folds.setdefault(level // 10, set()).add(int(number))
    assert all(len(numbers) == 1 for numbers in folds.values())


def test_too_few_identities_are_refused(people: Path):
    with pytest.raises(DataError, match="at least 4 identities"):
        read_identities(people, seed=0)


def encoded(level: int, side: int = 112) -> bytes:
    return cv2.imencode(".png", np.full((side, side, 3), level, np.uint8))[1].tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pack_of_every_protocol_that_holds_bytes(tmp_path: Path, protocol: int):
    shared = encoded(30)
    content = ([encoded(10), encoded(20), shared, shared], [True, False])
    path = tmp_path / "faces.bin"
    if protocol == 2:
        path.write_bytes(python_2_pack(*content))
    else:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    pairs = load_pairs(path, None, seed=0)
    assert levels(pairs, pairs.genuine) == [[10, 20]]
    assert levels(pairs, pairs.impostor) == [[30, 30]]
    assert pairs.name == "faces"


def python_2_pack(faces: list[bytes], flags: list[bool]) -> bytes:
    """The bytes that Python 2 wrote: BINSTRING for each face."""
    strings = b"".join(b"T" + len(item).to_bytes(4, "little") + item for item in faces)
    truths = b"".join(b"\x88" if flag else b"\x89" for flag in flags)
    return b"\x80\x02](" + strings + b"e](" + truths + b"e\x86."


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_pack_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.bin"
    path.write_bytes(pickle.dumps(([Bomb()], [True])))
    with pytest.raises(DataError, match="not just faces and flags"):
        read_pack(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got .*: "),
        (b"no pickle at all", "got .*: "),
        (pickle.dumps(([b"a", b"b"], [True]))[:-6], "got .*: "),
        (pickle.dumps(([b"a"], [True])), "1 faces and 1 pairs"),
        (pickle.dumps(([], [])), "0 faces and 0 pairs"),
        (b"\x80\x02](h\x07e](\x88e\x86.", "recalls entry 7"),
    ],
)
def test_malformed_packs_are_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "faces.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pack(path)


def test_pack_with_faces_of_another_size_is_refused(tmp_path: Path):
    path = tmp_path / "faces.bin"
    path.write_bytes(pickle.dumps(([encoded(1), encoded(1, side=64)] * 2, [True, False])))
    with pytest.raises(DataError, match=r"face 1 of .*faces\.bin.*64x64"):
        read_bin(path)


def test_pack_with_a_pairs_file_is_refused(tmp_path: Path):
    path = tmp_path / "faces.bin"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="holds its own pairs"):
        load_pairs(path, path, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((4, 64, 64, 3), np.uint8)}, "uint8"),
        ({"images": np.zeros((4, 112, 112, 3), np.float32)}, "uint8"),
        ({"genuine": [[0, 4]]}, "faces 0 to 3"),
        ({"impostor": [[-1, 2]]}, "faces 0 to 3"),
        ({"genuine": []}, "whole numbers"),
        ({"impostor": [[0.0, 1.0]]}, "whole numbers"),
        ({"genuine_folds": [0, 1, 2]}, "expected 2 folds"),
        ({"genuine_folds": [3, 3], "impostor_folds": [3, 3]}, "two folds, got all in fold 3"),
        ({"genuine": [[0, 1]], "impostor": [[0, 2]]}, "two folds, got all in fold 0"),
    ],
)
def test_arrays_that_are_no_pairs_are_refused(changes: dict[str, object], message: str):
    arguments = {"images": np.zeros((4, 112, 112, 3), np.uint8), "genuine": [[0, 1], [2, 3]]}
    arguments |= {"impostor": [[0, 2], [1, 3]]}
    assert len(Pairs.from_arrays(**arguments).genuine) == 2
    arguments |= changes
    with pytest.raises(DataError, match=message):
        Pairs.from_arrays(**arguments)


def test_the_real_lfw_pairs(shared: Path, tmp_path: Path):
    """All pairs of the standard file, each face by a link to the same picture."""
    pairs_file = shared / "data" / "lfw_pairs.txt"
    rows = [line.split() for line in pairs_file.read_text("utf-8").splitlines()[1:]]
    named = {(row[0], row[1]) for row in rows} | {(row[-2], row[-1]) for row in rows if row[3:]}
    named |= {(row[0], row[2]) for row in rows if len(row) == 3}
    cv2.imwrite(str(tmp_path / "face.png"), face(7))
    for name, number in named:
        (tmp_path / name).mkdir(exist_ok=True)
        link = tmp_path / name / f"{name}_{int(number):04d}.png"
        link.symlink_to(tmp_path / "face.png")
    pairs = read_lfw(tmp_path, pairs_file)
    assert len(pairs.genuine) == len(pairs.impostor) == 3000
    assert len(pairs.images) == 7701
    assert np.bincount(pairs.genuine_folds).tolist() == [300] * 10


def test_more_attacked_pairs_keep_the_fewer() -> None:
    images = np.zeros((8, 112, 112, 3), np.uint8)
    pairs = Pairs.from_arrays(
        images, [[0, 1], [2, 3], [4, 5], [6, 7]], [[0, 2], [1, 3], [4, 6], [5, 7]]
    )
    for seed in range(5):
        few, more = (attacked_pairs(pairs, limit, seed) for limit in (2, 9))
        for goal, kind in (("dodging", pairs.genuine), ("impersonation", pairs.impostor)):
            assert few[goal].tolist() == more[goal][:2].tolist()
            assert sorted(more[goal].tolist()) == kind.tolist()
