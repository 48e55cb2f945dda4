from __future__ import annotations

from pathlib import Path

import pytest

from facepurify.errors import OutputError
from facepurify.files import atomic_path, make_folder, target_of


def test_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "result.png"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "result.png"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="expected a folder"), atomic_path(tmp_path / "no" / "x"):
        pytest.fail("the block must not run")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OutputError), atomic_path(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_block_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError), atomic_path(tmp_path / "x"):
        pass


@pytest.mark.parametrize("stem", ["x" * 251, "é" * 125, "x" * 233, "x" * 234])
def test_names_as_long_as_the_system_has_them(tmp_path: Path, stem: str) -> None:
    target = tmp_path / f"{stem}.png"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        was_to_become = target_of(temporary.name)
    assert was_to_become is not None
    assert stem.startswith(was_to_become.removesuffix(".png"))
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"could not make the folder .*file"):
        make_folder(tmp_path / "file")
    assert make_folder(tmp_path / "a" / "b").is_dir()
