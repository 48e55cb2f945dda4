"""Fixtures of the command line: a home without packs, image files, a detector made of landmarks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepurify import NoFaceError
from facepurify.__main__ import main
from facepurify.images import Array

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without any insightface pack, whatever this machine has."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command and return its exit status, its output and its errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def crop_file(tmp_path: Path) -> Path:
    """An aligned crop as a PNG file in a folder of its own."""
    path = tmp_path / "in" / "crop.png"
    path.parent.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder named ``closed`` may not be searched, whoever runs the tests."""
    scandir = os.scandir

    def scan(folder: str | Path) -> object:
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)


class KnownFaces:
    """A detector that knows where the faces of one photo are."""

    def __init__(self, photo: Array, landmarks: Array) -> None:
        self.photo = photo
        self.landmarks = landmarks

    def find(self, photo: Array) -> Array:
        """Give the landmarks of the one photo."""
        if photo.shape != self.photo.shape:
            raise NoFaceError("expected a face, found none")
        return self.landmarks


@pytest.fixture
def detector(photo: Array, landmarks: Array, monkeypatch: pytest.MonkeyPatch) -> KnownFaces:
    """Put a detector of insightface's bundled photo where the commands look for one."""
    known = KnownFaces(photo, landmarks)
    monkeypatch.setattr("facepurify.cli.options.open_finder", lambda *_: known)
    return known


@pytest.fixture(scope="session")
def pack(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An insightface model pack: a detector and a recognizer."""
    pytest.importorskip("insightface", reason="needs insightface")
    folder = tmp_path_factory.mktemp("packs") / "pack"
    folder.mkdir()
    for name in ("det_500m.onnx", "mobileface_v2.onnx"):
        shutil.copyfile(shared / "models" / name, folder / name)
    return folder
