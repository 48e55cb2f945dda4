"""The README's Python, run as a stranger would: in another folder, with insightface's own pack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parents[1]


def test_the_examples_run(shared, photo, tmp_path):
    pytest.importorskip("insightface", reason="needs insightface")
    from insightface.utils import DEFAULT_MP_NAME

    pack = tmp_path / ".insightface" / "models" / DEFAULT_MP_NAME
    pack.mkdir(parents=True)
    for name in ("det_500m.onnx", "mobileface_v2.onnx"):
        shutil.copyfile(shared / "models" / name, pack / name)
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo)

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    blocks = [block for block in blocks if "import ray" not in block]  # see test_batches.py
    assert len(blocks) == 2
    check = (
        "assert len(faces) == 6 and all(face.embedding is not None for face in faces)\n"
        "assert clean.shape == photo.shape and (clean != photo).any()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, check])],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3


def test_every_command_is_there(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"python -m facepurify (\w+)", readme))
    assert commands == {"demo", "doctor", "inspect", "models", "purify"}
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "facepurify", command, "--help"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
