"""The runtime half stands alone: nothing heavy is imported, nothing optional is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnx", "insightface", "tqdm", "skimage", "sklearn")


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_of_one_photo(tiny_model: Path) -> None:
    code = """
import sys
import numpy as np
from facepurify import ARCFACE_TEMPLATE, Purifier
photo = np.full((3000, 4000, 3), 99, np.uint8)  # 12 megapixels, the face as high as the photo
Purifier(sys.argv[1]).purify(photo, landmarks=ARCFACE_TEMPLATE * 3000 / 112)
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(line.split()[1])
"""
    assert int(python(code, str(tiny_model))) < 300_000  # kilobytes


def test_import_is_light() -> None:
    loaded = python("import sys, facepurify; print(*sys.modules)").split()
    assert not {*HEAVY, "onnxruntime"} & set(loaded)


def test_purifies_without_anything_optional(tiny_model: Path) -> None:
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import numpy as np
from facepurify import ARCFACE_TEMPLATE, Purifier
purifier = Purifier(sys.argv[1])
photo = np.zeros((200, 200, 3), np.uint8)
assert purifier.inspect(photo, landmarks=ARCFACE_TEMPLATE + 40).score is not None
assert len(purifier.wrap(lambda crops: crops)(photo[:112, :112])) == 112
print("purified")
"""
    assert python(code, str(tiny_model)).strip() == "purified"
