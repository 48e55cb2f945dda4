"""Which files are read, and where each result goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facepurify import ImageFileError, OptionError, OutputError, OutputExistsError
from facepurify.cli.jobs import Job, Plan, check_free, check_target


def files(root: Path, *names: str) -> list[Path]:
    paths = [root / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return paths


def plan(inputs: list[Path], output: Path) -> list[Job]:
    whole = Plan(inputs, output)
    jobs = list(whole)
    assert whole.count() == len(jobs)
    assert all(whole.takes(job.source) for job in jobs)
    return jobs


def targets(jobs: list[Job], output: Path) -> list[str]:
    return [job.target.relative_to(output).as_posix() for job in jobs]


def test_a_folder_is_mirrored(tmp_path):
    files(tmp_path / "in", "b.PNG", "a.jpg", "deep/er/c.webp", "notes.txt", "noext")
    (tmp_path / "in" / "folder.png").mkdir()
    jobs = plan([tmp_path / "in"], tmp_path / "out")
    assert targets(jobs, tmp_path / "out") == ["a.jpg", "b.PNG", "deep/er/c.webp"]
    assert [job.source.name for job in jobs] == ["a.jpg", "b.PNG", "c.webp"]


def test_equal_names_keep_their_folders(tmp_path):
    inputs = files(tmp_path, "one/face.png", "two/face.png")
    assert targets(plan(inputs, tmp_path / "out"), tmp_path / "out") == [
        "one/face.png",
        "two/face.png",
    ]
    assert targets(plan([tmp_path / "one", inputs[1]], tmp_path / "out"), tmp_path / "out") == [
        "one/face.png",
        "two/face.png",
    ]


def test_files_of_one_folder_lie_side_by_side(tmp_path):
    inputs = files(tmp_path, "a.png", "b.png")
    assert targets(plan(inputs, tmp_path / "out"), tmp_path / "out") == ["a.png", "b.png"]


def test_a_file_given_twice_is_done_once(tmp_path):
    (path,) = files(tmp_path, "in/a.png")
    twice = [path, path.parent / ".." / "in" / "a.png", path.parent]
    assert len(plan(twice, tmp_path / "out")) == 1


def test_one_file_to_one_file(tmp_path):
    (path,) = files(tmp_path, "a.png")
    assert plan([path], tmp_path / "b.png") == [Job(path, tmp_path / "b.png")]
    (tmp_path / "folder.png").mkdir()
    assert targets(plan([path], tmp_path / "folder.png"), tmp_path / "folder.png") == ["a.png"]


def test_relative_paths(tmp_path, monkeypatch):
    (path,) = files(tmp_path, "in/a.png")
    monkeypatch.chdir(tmp_path)
    assert plan([Path("in")], Path("out")) == [Job(path, tmp_path / "out" / "a.png")]


def test_earlier_results_are_no_inputs(tmp_path):
    files(tmp_path, "in/a.png", "in/out/a.png")
    assert len(plan([tmp_path / "in"], tmp_path / "in" / "out")) == 1
    assert len(plan([tmp_path / "in"], tmp_path / "in")) == 2


def test_inputs_that_are_none(tmp_path):
    with pytest.raises(ImageFileError, match=r"got .*missing.png; there is no such thing"):
        plan([tmp_path / "missing.png"], tmp_path / "out")
    with pytest.raises(ImageFileError, match="found none"):
        plan([tmp_path], tmp_path / "out")


def test_inputs_on_several_drives(tmp_path, monkeypatch):
    def drives(_):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", drives)
    with pytest.raises(OptionError, match="run the command for each drive"):
        plan(files(tmp_path, "a.png", "b.png"), tmp_path / "out")


def test_outputs_that_are_none(tmp_path):
    inputs = files(tmp_path, "in/a.png", "in/b.png", "text.txt")[:2]
    with pytest.raises(OutputError, match=r"got the file name c\.png"):
        plan(inputs, tmp_path / "c.png")
    with pytest.raises(OutputError, match=r"got the file name c\.png"):
        plan([tmp_path / "in"], tmp_path / "c.png")
    with pytest.raises(OutputError, match=r"got the file .*text\.txt"):
        plan(inputs, tmp_path / "text.txt")


def test_nothing_is_replaced_unasked(tmp_path):
    source, other, old = files(tmp_path, "a.png", "b.png", "out/a.png")
    sources = Plan([source, other], tmp_path / "out")
    assert not check_target(Job(source, tmp_path / "out" / "new.png"), sources, False)
    with pytest.raises(OutputExistsError, match="exists; --overwrite replaces it"):
        check_target(Job(source, old), sources, False)
    assert not check_target(Job(source, old), sources, True)
    with pytest.raises(OutputExistsError, match="another file than the input"):
        check_target(Job(source, source), sources, False)
    assert check_target(Job(source, source), sources, True)
    with pytest.raises(OutputExistsError, match="is another input"):
        check_target(Job(source, other), sources, True)


def test_a_link_to_the_input_is_the_input(tmp_path):
    (source,) = files(tmp_path, "a.png")
    link = tmp_path / "link.png"
    os.link(source, link)
    with pytest.raises(OutputExistsError, match="another file than the input"):
        check_target(Job(source, link), Plan([source], tmp_path / "out"), False)


def test_the_search_is_in_alphabetical_order_and_follows_no_links_to_folders(tmp_path):
    files(tmp_path / "in", "b/x.png", "a.png", "b.png", "c/y.png", "c.png")
    files(tmp_path / "else", "z.png")
    (tmp_path / "in" / "d").symlink_to(tmp_path / "else")
    (tmp_path / "in" / "e.png").symlink_to(tmp_path / "else" / "z.png")
    (tmp_path / "in" / "f.png").symlink_to(tmp_path / "nowhere.png")
    names = targets(plan([tmp_path / "in"], tmp_path / "out"), tmp_path / "out")
    assert names == ["a.png", "b/x.png", "b.png", "c/y.png", "c.png", "e.png", "f.png"]
    # what the search does not come across is not taken for a part of it
    assert len(plan([tmp_path / "in", tmp_path / "in" / "d"], tmp_path / "out")) == 8
    assert len(plan([tmp_path / "in", tmp_path / "in" / "d" / "z.png"], tmp_path / "out")) == 8
    assert len(plan([tmp_path / "in" / "c", tmp_path / "in"], tmp_path / "out")) == 7


def test_an_output_behind_a_link_is_no_input(tmp_path):
    files(tmp_path / "in", "a.png", "out/a.png", "sub/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "in" / "out")
    names = [job.source.name for job in plan([tmp_path / "in"], tmp_path / "link")]
    assert names == ["a.png", "b.png"]
    whole = Plan([tmp_path / "in"], tmp_path / "link")
    assert not whole.takes(tmp_path / "link" / "a.png")
    # unless it is a folder to search
    (tmp_path / "same").symlink_to(tmp_path / "in")
    assert len(plan([tmp_path / "in"], tmp_path / "same")) == 3


def test_an_input_behind_a_link_is_not_replaced(tmp_path):
    first, second = files(tmp_path, "in/a.png", "in/sub/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in" / "sub")
    for inputs in ([first, second], [first.parent, second.parent]):
        sources = Plan(inputs, tmp_path / "link")
        job = next(job for job in sources if job.source == first)
        assert job.target.samefile(second)
        with pytest.raises(OutputExistsError, match="is another input"):
            check_target(job, sources, True)


def test_a_way_out_of_a_folder_behind_a_link(tmp_path, monkeypatch):
    files(tmp_path, "real/a.png", "real/deep/b.png", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    monkeypatch.chdir(tmp_path)
    (job,) = plan([Path("link/../a.png")], Path("link/../out"))
    assert job == Job(tmp_path / "real" / "a.png", tmp_path / "real" / "out" / "a.png")


@pytest.mark.usefixtures("closed")
def test_one_bad_entry_does_not_end_the_search(tmp_path):
    files(tmp_path / "in", "a.png", "closed/b.png", "gone/c.png", "z.png")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    (tmp_path / "in" / "loop").symlink_to("loop")
    jobs = iter(Plan([tmp_path / "in"], tmp_path / "out"))
    assert next(jobs).source.name == "a.png"
    (tmp_path / "in" / "gone" / "c.png").unlink()
    (tmp_path / "in" / "gone").rmdir()
    shut, gone, loop, last = jobs
    assert f"could not search {tmp_path / 'in' / 'closed'}: Permission denied" in str(shut.error)
    assert f"could not search {tmp_path / 'in' / 'gone'}" in str(gone.error)
    assert [(job.source.name, job.error) for job in (loop, last)] == [
        ("loop.png", None),
        ("z.png", None),
    ]


@pytest.mark.usefixtures("closed")
def test_leftovers_beside_a_folder_that_cannot_be_searched(tmp_path):
    files(tmp_path / "in", "a.png")
    (left, _) = files(tmp_path / "out", ".a.0123456789abcdef.png", "closed/b.png")
    whole = Plan([tmp_path / "in"], tmp_path / "out")
    assert list(whole.leftovers()) == [left]


def test_names_that_nobody_can_look_at(tmp_path):
    files(tmp_path, "a.png")
    endless = tmp_path / ("x" * 300 + ".png")
    with pytest.raises(ImageFileError, match=r"could not look at .*: File name too long"):
        Plan([endless], tmp_path / "out")
    with pytest.raises(OutputError, match=r"could not look at .*: File name too long"):
        Plan([tmp_path / "a.png"], endless)
    with pytest.raises(OutputError, match=r"could not look at .*: File name too long"):
        check_free(endless, overwrite=True)


def test_links_to_themselves(tmp_path):
    (source,) = files(tmp_path, "in/a.png")
    (tmp_path / "loop").symlink_to("loop")
    for output in (tmp_path / "loop", tmp_path / "loop" / "out"):
        with pytest.raises(OutputError, match="could not look at"):
            Plan([source], output)
    with pytest.raises(ImageFileError, match="could not look at"):
        Plan([tmp_path / "loop"], tmp_path / "out")


def test_a_file_of_another_suffix_is_read_where_it_is_named(tmp_path):
    (odd,) = files(tmp_path, "in/face.tif")
    assert plan([odd, tmp_path / "in"], tmp_path / "out") == [
        Job(odd, tmp_path / "out" / "face.tif")
    ]


def test_a_folder_that_cannot_be_searched_stops_the_run(tmp_path, monkeypatch):
    files(tmp_path, "in/a.png")

    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ImageFileError, match=r"could not search .*in: Permission denied"):
        Plan([tmp_path / "in"], tmp_path / "out")


def test_temporary_files_are_no_images(tmp_path):
    half = ".a.0123456789abcdef.png"
    files(tmp_path, "in/a.png", "in/deep/b.png", f"in/{half}")
    output = tmp_path / "out"
    ours = files(output, half, "deep/.b.0123456789abcdef.png")
    files(output, ".c.0123456789abcdef.png", "a.png", ".hidden.png")
    whole = Plan([tmp_path / "in"], output)
    assert targets(list(whole), output) == ["a.png", "deep/b.png"]
    assert sorted(whole.leftovers()) == sorted(ours)


def test_check_free(tmp_path):
    (old,) = files(tmp_path, "a.png")
    check_free(tmp_path / "new.png", overwrite=False)
    check_free(old, overwrite=True)
    with pytest.raises(OutputExistsError):
        check_free(old, overwrite=False)
