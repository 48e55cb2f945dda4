"""``purify`` on folders: several processes, what failed, and going on after a kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepurify import OutputError, Purifier
from facepurify.cli.record import DONE, FAILED, RUN, DoneList, FailureList, Made
from facepurify.imagefiles import read_image, write_image

CROPS = 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Crops in subfolders, each of one colour that says which it is; two are broken."""
    for number in range(CROPS):
        path = tmp_path / "in" / str(number % 3) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((448, 448, 3), number, np.uint8))
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    (tmp_path / "in" / "0" / "half.png").write_bytes(path.read_bytes()[:200])
    return tmp_path / "in"


def command(folder: Path, model: Path, *options: object) -> list[str]:
    arguments = ["purify", folder, "-o", folder.parent / "out", "--model", model, *options]
    return [sys.executable, "-m", "facepurify", *map(str, arguments)]


def error_of_opencv(code: int) -> cv2.error:
    error = cv2.error("OpenCV failed")
    error.code = code
    return error


def state(output: Path) -> dict[str, tuple[int, int]]:
    """Which file each result is, and when it was written; what is being written left out."""
    found = {}
    for path in output.rglob("[!.]*.png"):
        status = path.stat()
        found[path.relative_to(output).as_posix()] = (status.st_ino, status.st_mtime_ns)
    return found


def check(folder: Path, model: Path) -> None:
    """Every image has its own result, whole, and nothing else is there."""
    output = folder.parent / "out"
    assert len(state(output)) == CROPS
    with Purifier(model, threads=1) as purifier:
        for number in range(CROPS):
            name = f"{number % 3}/{number:03}.png"
            expected = purifier.purify(read_image(folder / name).pixels)
            np.testing.assert_array_equal(read_image(output / name).pixels, expected)
    lines = [json.loads(line) for line in (output / FAILED).read_text().splitlines()]
    assert sorted((line["source"], line["error"]) for line in lines) == [
        (str(folder / "0" / "half.png"), "ImageFileError"),
        (str(folder / "bad.png"), "ImageFileError"),
    ]
    assert all("expected" in line["message"] for line in lines)
    notes = [DONE, FAILED, RUN]
    assert sum(path.is_file() for path in output.rglob("*")) == CROPS + len(notes)


def test_several_processes_do_what_one_does(folder, tiny_model, run):
    output = folder.parent / "out"
    status, out, err = run(*command(folder, tiny_model)[3:], "--workers", 2)
    assert status == 1
    assert f"purified {CROPS} face(s) in {CROPS} of {CROPS + 2} image(s) with tiny" in out
    assert f"listed the failures in {output / FAILED}" in out
    assert err.startswith("2 image(s) failed, nothing was written for them:\n")
    check(folder, tiny_model)
    before = state(output)
    status, out, _ = run(*command(folder, tiny_model)[3:], "--workers", 1, "--resume")
    assert status == 1
    assert "purified 0 face(s)" in out
    assert f"kept {CROPS} result(s) of an earlier run" in out
    assert state(output) == before


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="kills process groups")
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_killed_run_is_gone_on_with(folder, tiny_model, whole_group):
    output = folder.parent / "out"
    done: dict[str, tuple[int, int]] = {}
    for enough in (2, 30):  # two runs are killed, the third ends
        process = subprocess.Popen(
            command(folder, tiny_model, "--workers", 2, "--resume"),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(state(output)) < enough:
            assert process.poll() is None
            time.sleep(0.001)
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()  # its workers must end by themselves
        assert process.wait() == -signal.SIGKILL
        wait_for_the_end_of(process.pid)
        now = state(output)
        assert done.items() <= now.items()
        assert len(now) < CROPS
        for name in now:
            assert read_image(output / name).pixels.shape == (448, 448, 3)
        done = now
    finished = subprocess.run(
        command(folder, tiny_model, "--workers", 2, "--resume"), capture_output=True, text=True
    )
    assert finished.returncode == 1, finished.stderr
    assert f"kept {len(done)} result(s)" in finished.stdout
    assert done.items() <= state(output).items()  # nothing was done again
    check(folder, tiny_model)


def wait_for_the_end_of(group: int) -> None:
    """Wait until no process of a group is left that still runs."""
    for _ in range(6000):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail("a worker lives on without its parent")


def test_a_damaged_result_is_made_again(crop_file, tiny_model, tmp_path, run):
    write_image(crop_file.parent / "other.png", np.zeros((112, 112, 3), np.uint8))
    output = tmp_path / "out"
    arguments = ["purify", crop_file.parent, "-o", output, "--model", tiny_model]
    assert run(*arguments)[0] == 0
    whole = (output / "crop.png").read_bytes()
    half = output / ".other.0123456789abcdef.png"
    (output / "crop.png").write_bytes(whole[:100])
    half.write_bytes(whole[:50])
    status, out, err = run(*arguments, "--resume")
    assert (status, err) == (0, "")
    assert "purified 1 face(s) in 1 of 2 image(s)" in out
    assert "kept 1 result(s)" in out
    assert (output / "crop.png").read_bytes() == whole
    assert not half.exists()


def test_results_of_other_options_are_not_mixed(crop_file, tiny_model, invert_model, tmp_path, run):
    output = tmp_path / "out"
    arguments = ["purify", crop_file.parent, "-o", output]
    assert run(*arguments, "--model", tiny_model)[0] == 0
    for options in (
        ["--model", invert_model],
        ["--model", tiny_model, "--mask", "fixed"],
        ["--model", tiny_model, "--seed", 1],
    ):
        status, _, err = run(*arguments, *options, "--resume")
        assert status == 1
        assert "expected the options that the results in" in err
    assert "another mask, model, sha256" in run(*arguments, "--model", invert_model)[2]
    assert run(*arguments, "--model", tiny_model, "--resume")[0] == 0


def test_results_without_a_note_are_not_kept(crop_file, tiny_model, tmp_path, run):
    output = tmp_path / "out"
    arguments = ["purify", crop_file.parent, "-o", output, "--model", tiny_model]
    assert run(*arguments)[0] == 0
    (output / RUN).unlink()  # as a kill between the two does that begin a run anew
    for _ in range(2):
        status, _, err = run(*arguments, "--resume")
        assert status == 1
        assert "exists; --overwrite replaces it" in err
    assert len((output / FAILED).read_text().splitlines()) == 1


def test_a_file_that_no_run_made_is_not_kept(crop_file, tiny_model, tmp_path, run):
    output = tmp_path / "out"
    output.mkdir()
    shutil.copyfile(crop_file, output / "crop.png")
    arguments = ["purify", crop_file.parent, "-o", output, "--model", tiny_model]
    for options in ([], ["--resume"], ["--resume"]):
        status, out, err = run(*arguments, *options)
        assert status == 1
        assert "kept" not in out
        assert "expected a free name" in err
        assert len((output / FAILED).read_text().splitlines()) == 1
    assert run(*arguments, "--resume", "--overwrite")[0] == 0
    assert "kept 1 result(s)" in run(*arguments, "--resume")[1]
    shutil.copyfile(crop_file, output / "crop.png")
    status, _, err = run(*arguments, "--resume")
    assert status == 1
    assert "expected a free name" in err
    assert (output / "crop.png").read_bytes() == crop_file.read_bytes()


def test_results_of_other_inputs_are_not_kept(crop_file, tiny_model, tmp_path, run):
    other = tmp_path / "other" / "crop.png"
    other.parent.mkdir()
    write_image(other, np.zeros((112, 112, 3), np.uint8))
    output = tmp_path / "out"
    arguments = ["-o", output, "--model", tiny_model]
    assert run("purify", crop_file.parent, *arguments)[0] == 0
    before = (output / "crop.png").read_bytes()
    status, out, err = run("purify", other.parent, *arguments, "--resume")
    assert status == 1
    assert "kept" not in out
    assert "expected a free name" in err
    assert (output / "crop.png").read_bytes() == before
    assert run("purify", other.parent, *arguments, "--resume", "--overwrite")[0] == 0
    assert (output / "crop.png").read_bytes() != before


@pytest.mark.parametrize("seconds", [1, -3600])  # programs that copy files keep their times
def test_the_result_of_a_photo_that_was_replaced_is_made_anew(
    crop_file, tiny_model, tmp_path, run, seconds
):
    output = tmp_path / "out"
    arguments = ["purify", crop_file.parent, "-o", output, "--model", tiny_model]
    assert run(*arguments)[0] == 0
    before = (output / "crop.png").read_bytes()
    write_image(crop_file, np.zeros((112, 112, 3), np.uint8))
    changed = (output / "crop.png").stat().st_mtime_ns + seconds * 1_000_000_000
    os.utime(crop_file, ns=(changed, changed))
    status, out, _ = run(*arguments, "--resume")
    assert status == 0
    assert "kept" not in out
    assert (output / "crop.png").read_bytes() != before


def stop_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the user stop a run when it has purified so many images."""
    purify, seen = Purifier.purify, []

    def stopping(*given, **options):
        if len(seen) == number:
            raise KeyboardInterrupt
        seen.append(None)
        return purify(*given, **options)

    monkeypatch.setattr(Purifier, "purify", stopping)


def test_a_run_that_replaces_is_gone_on_with(
    crop_file, tiny_model, invert_model, tmp_path, run, monkeypatch
):
    write_image(crop_file.parent / "other.png", np.zeros((112, 112, 3), np.uint8))
    output = tmp_path / "out"
    arguments = ["purify", crop_file.parent, "-o", output]
    assert run(*arguments, "--model", tiny_model)[0] == 0
    older = (output / "other.png").read_bytes()
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        status, _, err = run(*arguments, "--model", invert_model, "--overwrite")
    assert status == 130
    assert "stopped; the same command with --resume goes on" in err
    for _ in range(2):  # what the first model left is never taken for the second one's
        status, out, err = run(*arguments, "--model", invert_model, "--resume")
        assert status == 1
        assert "kept 1 result(s)" in out
        assert f"{output / 'other.png'} exists; --overwrite replaces it" in err
        assert (output / "other.png").read_bytes() == older
    status, out, _ = run(*arguments, "--model", invert_model, "--overwrite", "--resume")
    assert status == 0
    assert "kept 1 result(s)" in out
    assert (read_image(output / "other.png").pixels == 255).all()
    assert "kept" not in run(*arguments, "--model", invert_model, "--overwrite")[1]


def test_no_image_is_purified_twice_in_place(crop_file, invert_model, run, monkeypatch):
    folder = crop_file.parent
    write_image(folder / "other.png", np.zeros((112, 112, 3), np.uint8))
    before = read_image(crop_file).pixels
    arguments = ["purify", folder, "-o", folder, "--model", invert_model, "--overwrite"]
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert run(*arguments)[0] == 130
    status, out, _ = run(*arguments, "--resume")
    assert status == 0
    assert "kept 1 result(s)" in out
    np.testing.assert_array_equal(read_image(crop_file).pixels, 255 - before)
    assert (read_image(folder / "other.png").pixels == 255).all()


def test_a_list_that_was_cut_short(tmp_path):
    root, output = tmp_path / "in", tmp_path / "out"
    output.mkdir()
    with DoneList(output) as done:
        done.add(root / "a.png", "of then", output / "a.png", b"a")
    path = output / DONE
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50] + b"\n[]\n\xff\n" + whole[:30])
    odd = "caf\udce9\n.png"  # a name that is not UTF-8
    with DoneList(output) as done:
        done.add(root / odd, "odd", output / odd, b"b")
        done.add(tmp_path / "else" / "c.png", "else", output / "c.png", b"c")
        done.add(root / "a.png", "of now", output / "a.png", b"d")
    assert DoneList(output).made(root) == {
        str(root / "a.png"): Made(hashlib.sha256(b"d").hexdigest(), "of now"),
        str(root / odd): Made(hashlib.sha256(b"b").hexdigest(), "odd"),
    }


class AlmostFull(io.BytesIO):
    """A file on a disk that has room for three more bytes."""

    def write(self, text: bytes) -> int:
        return super().write(text[:3])


def test_a_list_that_cannot_be_written_or_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    with monkeypatch.context() as patch, DoneList(tmp_path) as done:
        patch.setattr(Path, "open", lambda *_, **__: AlmostFull())
        with pytest.raises(OutputError, match=r"could not write .*: no space is left"):
            done.add(path, "", path, b"")
    (tmp_path / DONE).mkdir()
    with DoneList(tmp_path) as done:
        with pytest.raises(OutputError, match=f"could not write .*{DONE}"):
            done.add(path, "", path, b"")
        with pytest.raises(OutputError, match=f"could not read .*{DONE}"):
            done.made(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a": '])
def test_a_note_that_is_none(crop_file, tiny_model, tmp_path, run, content):
    output = tmp_path / "out"
    output.mkdir()
    (output / RUN).write_bytes(content)
    status, _, err = run("purify", crop_file, "-o", output, "--model", tiny_model, "--resume")
    assert status == 1
    assert "expected a JSON object in" in err


def test_an_input_is_no_result(crop_file, tiny_model, tmp_path, run):
    output = crop_file.parent
    status, _, err = run("purify", output, "-o", output, "--model", tiny_model, "--resume")
    assert status == 1
    status, _, err = run("purify", output, "-o", output, "--model", tiny_model, "--resume")
    assert status == 1
    assert "expected another file than the input" in err


def test_many_failures_are_listed_and_not_all_shown(tiny_model, tmp_path, run):
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"")
    output = tmp_path / "out"
    status, _, err = run("purify", tmp_path / "in", "-o", output, "--model", tiny_model)
    assert status == 1
    assert err.startswith("30 image(s) failed")
    assert err.endswith("\n  and 10 more\n")
    assert len((output / FAILED).read_text().splitlines()) == 30
    write_image(tmp_path / "in" / "0.png", np.zeros((112, 112, 3), np.uint8))
    run("purify", tmp_path / "in", "-o", output, "--model", tiny_model, "--resume")
    assert len((output / FAILED).read_text().splitlines()) == 29


def test_failures_that_cannot_be_listed_do_not_end_the_run(
    crop_file, tiny_model, tmp_path, run, monkeypatch
):
    (crop_file.parent / "bad.png").write_bytes(b"no image")
    monkeypatch.setattr(FailureList, "_write", full)
    status, out, err = run(
        "purify", crop_file.parent, "-o", tmp_path / "out", "--model", tiny_model
    )
    assert status == 1
    assert "purified 1 face(s) in 1 of 2 image(s)" in out
    assert "listed the failures" not in out
    assert err.startswith("the failures are not all listed: could not write it: no space is left")
    assert "bad.png: expected a JPEG" in err


def full(*_: object) -> None:
    raise OutputError("could not write it: no space is left")


def test_a_failure_on_a_full_disk_is_an_error_of_ours(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    failures = FailureList(None)
    failures.path = Path("/dev/full")
    with failures, pytest.raises(OutputError, match="No space left"):
        failures.add(tmp_path, ValueError())


def test_one_file_to_one_file_leaves_nothing_else(crop_file, tiny_model, tmp_path, run):
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "one.png"
    assert run("purify", crop_file, "-o", target, "--model", tiny_model)[0] == 0
    assert list((tmp_path / "out").iterdir()) == [target]


def test_the_user_stops_it(crop_file, tiny_model, tmp_path, run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Purifier, "purify", stop)
    status, out, err = run("purify", crop_file, "-o", tmp_path / "out", "--model", tiny_model)
    assert status == 130
    assert "purified 0 face(s) in 0 of 1 image(s)" in out
    assert "stopped; the same command with --resume goes on" in err
    status, _, err = run("purify", crop_file, "-o", tmp_path / "one.png", "--model", tiny_model)
    assert (status, err) == (130, "stopped\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "expected an image that fits into memory"),
        (error_of_opencv(-4), "expected an image that fits into memory"),
        (error_of_opencv(-215), "could not be purified: error: OpenCV failed"),
        (ZeroDivisionError("by zero"), "could not be purified: ZeroDivisionError: by zero"),
    ],
)
def test_one_image_that_fails_oddly(
    crop_file, tiny_model, tmp_path, run, monkeypatch, error, reason
):
    def fail(*_, **__):
        raise error

    write_image(crop_file.parent / "wide.png", np.zeros((112, 200, 3), np.uint8))
    monkeypatch.setattr(Purifier, "purify", fail)
    status, _, err = run("purify", crop_file.parent, "-o", tmp_path / "out", "--model", tiny_model)
    assert status == 1
    assert err.startswith("2 image(s) failed")
    assert f"{crop_file}: {reason}" in err


@pytest.mark.usefixtures("closed")
def test_a_bad_entry_of_a_folder_is_one_failure(crop_file, tiny_model, tmp_path, run):
    folder = crop_file.parent
    (folder / "closed").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    output = tmp_path / "out"
    status, out, err = run("purify", folder, "-o", output, "--model", tiny_model)
    assert status == 1
    assert "purified 1 face(s) in 1 of 3 image(s)" in out
    assert f"  could not search {folder / 'closed'}: Permission denied" in err
    assert f"got {folder / 'loop.png'}; there is no such file" in err
    lines = [json.loads(line) for line in (output / FAILED).read_text().splitlines()]
    assert [line["source"] for line in lines] == [str(folder / "closed"), str(folder / "loop.png")]


def test_a_file_that_vanishes(crop_file, tiny_model, tmp_path, run, monkeypatch):
    def vanished(*_, **__):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("facepurify.cli.purify.check_target", vanished)
    status, _, err = run("purify", crop_file, "-o", tmp_path / "out", "--model", tiny_model)
    assert status == 1
    assert f"{crop_file}: could not be looked at" in err


def test_wrong_workers(crop_file, tiny_model, tmp_path, run):
    arguments = ["purify", crop_file, "-o", tmp_path / "out", "--model", tiny_model]
    status, _, err = run(*arguments, "--workers", 0)
    assert status == 1
    assert "expected workers >= 1, got 0" in err


def test_a_name_that_a_terminal_would_act_on(tiny_model, tmp_path, run):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\x1b[2J\nb.png").write_bytes(b"no image")
    status, _, err = run("purify", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny_model)
    assert status == 1
    assert r"a\x1b[2J\nb.png: expected a JPEG, PNG or WebP" in err
    assert run("purify", tmp_path / "\x1b]0;.png", "-o", tmp_path)[2].count("\x1b") == 0


def test_an_input_that_is_replaced_stays_private(crop_file, tiny_model, run):
    crop_file.chmod(0o600)
    arguments = ["purify", crop_file, "-o", crop_file, "--model", tiny_model, "--overwrite"]
    assert run(*arguments)[0] == 0
    assert crop_file.stat().st_mode & 0o777 == 0o600


def test_a_link_is_not_replaced(crop_file, tiny_model, tmp_path, run):
    link = tmp_path / "link.png"
    link.symlink_to(crop_file)
    before = crop_file.read_bytes()
    status, _, err = run("purify", link, "-o", link, "--model", tiny_model, "--overwrite")
    assert status == 1
    assert "expected a file to replace, got the link" in err
    assert link.is_symlink()
    assert crop_file.read_bytes() == before
