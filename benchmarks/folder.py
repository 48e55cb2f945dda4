"""Images a second of ``python -m facepurify purify`` on a folder, by the number of workers.

    python benchmarks/folder.py --images 5000 --workers 1 --workers 2 --workers 4

Crops of 112x112 as JPEG, made here. A run of a tenth of them pays for the start and is taken off.
The last figure is what ``--resume`` needs to look at results that are all there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from facepurify.files import atomic_path


def make_crops(folder: Path, count: int) -> None:
    """Smooth pictures, a thousand to a subfolder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 1000:04}" / f"{number:08}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (14, 14, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, (112, 112)))


def seconds(source: Path, target: Path, model: str | None, *options: str) -> float:
    """Time one run of the command; it must succeed."""
    command = [sys.executable, "-m", "facepurify", "purify", str(source), "-o", str(target)]
    command += ["--aligned", *(["--model", model] if model else []), *options]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--workers", action="append", type=int, help="repeat (1, 2)")
    parser.add_argument("--model", metavar="NAME|ONNX")
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    few = max(1, options.images // 10)
    record: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_crops(work / "few", few)
        make_crops(work / "all", options.images)
        for workers in options.workers or [1, 2]:
            flag = ["--workers", str(workers)]
            start = seconds(work / "few", work / "out-few", options.model, *flag)
            whole = seconds(work / "all", work / "out", options.model, *flag)
            again = seconds(work / "all", work / "out", options.model, *flag, "--resume")
            row = {
                "images_a_second": (options.images - few) / max(whole - start, 1e-9),
                "resume_seconds": again,
            }
            record[str(workers)] = row
            print(
                f"{workers} worker(s): {row['images_a_second']:.0f} images/s, "
                f"all there already: {again:.1f} s"
            )
            shutil.rmtree(work / "out-few")
            shutil.rmtree(work / "out")
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
