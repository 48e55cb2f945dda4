from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepurify.bench import __main__ as command
from facepurify.bench.__main__ import main
from facepurify.bench.attacks import PGD
from facepurify.bench.pairs import Pairs
from facepurify.bench.results import read_results
from tests.bench.conftest import recognizer_model

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def short_attacks(monkeypatch: pytest.MonkeyPatch):
    """Query and adaptive attacks of a few steps."""
    short = {norm: (PGD(norm, steps=3),) for norm in ("linf", "l2")}
    monkeypatch.setattr("facepurify.bench.evaluate.ADAPTIVE_ATTACKS", short)
    monkeypatch.setitem(command.FULL, "query", "square10")


@pytest.fixture(scope="module")
def lfw_like(people_pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up people as a folder, and their pairs in LFW's format, two folds."""
    folder = tmp_path_factory.mktemp("lfw")
    for index, image in enumerate(people_pairs.images):
        name = f"P{index // 2}"
        (folder / "faces" / name).mkdir(parents=True, exist_ok=True)
        path = folder / "faces" / name / f"{name}_{index % 2 + 1:04d}.png"
        cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]))
    genuine = [f"P{person}\t1\t2" for person in range(10)]
    impostor = [f"P{person}\t1\tP{(person + 3) % 10}\t2" for person in range(10)]
    rows = ["2\t5", *genuine[:5], *impostor[:5], *genuine[5:], *impostor[5:]]
    (folder / "pairs.txt").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


@pytest.fixture
def run(lfw_like: Path, recognizer_files: list[Path], tmp_path: Path, capsys) -> Run:
    """Run the command on the made-up people; options given replace the usual ones."""

    def call(*more: object, **changes: object) -> tuple[int, str, str]:
        options = {
            "data": lfw_like / "faces",
            "pairs": lfw_like / "pairs.txt",
            "recognizer": recognizer_files[0],
            "purifier": "grey",
            "attack": "pgd3",
            "limit": 4,
            "adaptive_limit": 2,
            "out": tmp_path / "out",
            **changes,
        }
        arguments = [
            text
            for name, value in options.items()
            if value is not None
            for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        status = main([*arguments, *map(str, more)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_a_run_leaves_results_and_reports(run: Run, tmp_path: Path):
    status, out, _ = run("--purifier", "bits4", "--eps", "4", "--eps", "8")
    assert status == 0
    results = read_results(tmp_path / "out" / "results.json")
    assert [defence.name for defence in results.defences] == ["none", "grey", "bits4"]
    assert {row.eps for row in results.attacked} == {4, 8}
    assert {(row.defence, row.recognizer) for row in results.latency} == {
        ("grey", "one"),
        ("bits4", "one"),
    }
    assert not results.smoke
    assert results.data.genuine == results.data.impostor == 10
    assert (tmp_path / "out" / "report.md").is_file()
    assert "data:image/png" not in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "one on pairs: 10 genuine" in out


def test_the_sheet_is_shown_when_asked_for(run: Run, tmp_path: Path):
    assert run("--sheet")[0] == 0
    assert "data:image/png" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_a_stopped_run_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    calls = []
    original = PGD.run

    def stopping(self, problem):
        calls.append(self.steps)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, problem)

    monkeypatch.setattr(PGD, "run", stopping)
    status, _, err = run()
    assert status == 130
    assert "run the same command again" in err
    assert not (tmp_path / "out" / "results.json").exists()
    assert run()[0] == 0
    # All but the one finished before the stop: for the attack itself both goals, for either
    # defence both goals of the adaptive attack and its four checks.
    assert len(calls) == 2 + (2 * 1 - 1) + 2 * 2 * (1 + 4)


def test_a_full_disk_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch):
    def full(file, **arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        status, _, err = run()
    assert status == 1
    assert "the disk is full; finished work is kept" in err
    assert run()[0] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": "pgdd"}, "unknown attack 'pgdd'"),
        ({"purifier": "nonesuch"}, "nonesuch"),
        ({"recognizer": "nowhere.onnx"}, "nowhere.onnx"),
        ({"pairs": "nowhere.txt"}, "nowhere.txt"),
        ({"data": "nowhere"}, "nowhere"),
        ({"data": None}, "expected --data"),
        ({"limit": 0}, "limit >= 1"),
        ({"threads": 0}, "--threads >= 1"),
        ({"threads": 10**20}, "--threads >= 1"),
        ({"eps": 0.03}, "whole grey levels from 1 to 255, got 0.03"),
        ({"eps_l2": -1}, "L2 eps > 0"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_options_are_one_line(run: Run, changes: dict[str, object], message: str):
    status, out, err = run(**changes)
    assert status == 1
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_missing_images_and_recognizers_of_another_size(run: Run, lfw_like: Path, tmp_path: Path):
    shutil.copytree(lfw_like / "faces", tmp_path / "faces")
    (tmp_path / "faces" / "P3" / "P3_0002.png").unlink()
    status, _, err = run(data=tmp_path / "faces")
    assert status == 1
    assert "P3_0002" in err
    small = tmp_path / "small.onnx"
    small.write_bytes(recognizer_model(0, side=64).SerializeToString())
    status, _, err = run(recognizer=small)
    assert status == 1
    assert "[N, 3, 112, 112]" in err


def test_two_recognizers_of_one_name_are_refused(
    run: Run, recognizer_files: list[Path], tmp_path: Path
):
    twin = tmp_path / recognizer_files[0].name
    shutil.copy(recognizer_files[1], twin)
    status, _, err = run("--recognizer", twin)
    assert status == 1
    assert "recognizers of different names" in err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("data", "pairs", "recognizer", "purifier", "attack", "eps", "limit", "policy"):
        assert f"--{option} " in text
