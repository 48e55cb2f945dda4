"""Images a second of ``python -m facepurify purify`` on a folder, by the number of workers.

    python benchmarks/folder.py --images 5000 --workers 1 --workers 2 --workers 4

Crops of 112x112 as JPEG, made here. A run of a tenth of them pays for the start and is taken off;
memory, of the largest process, should be the same in both. The last figure is what ``--resume``
needs to look at results that are all there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from facepurify import __version__
from facepurify.files import atomic_path


def make_crops(folder: Path, count: int) -> None:
    """Smooth pictures, a thousand to a subfolder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 1000:04}" / f"{number:08}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (14, 14, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, (112, 112)))


def run(source: Path, target: Path, model: str | None, *options: str) -> tuple[float, float]:
    """Seconds of one run of the command, which must succeed, and MB of its largest process."""
    command = [sys.executable, "-m", "facepurify", "purify", str(source), "-o", str(target)]
    command += ["--aligned", *(["--model", model] if model else []), *options]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--workers", action="append", type=int, help="repeat (1, 2)")
    parser.add_argument("--model", metavar="NAME|ONNX")
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    few = max(1, options.images // 10)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_crops(work / "few", few)
        make_crops(work / "all", options.images)
        for workers in options.workers or [1, 2]:
            flag = ["--workers", str(workers)]
            start, small = run(work / "few", work / "out-few", options.model, *flag)
            whole, large = run(work / "all", work / "out", options.model, *flag)
            again, _ = run(work / "all", work / "out", options.model, *flag, "--resume")
            row = {
                "workers": workers,
                "images_a_second": (options.images - few) / max(whole - start, 1e-9),
                "megabytes": large,
                "megabytes_for_a_tenth": small,
                "resume_seconds": again,
            }
            rows.append(row)
            print(
                f"{workers} worker(s): {row['images_a_second']:.0f} images/s, "
                f"{large:.0f} MB ({small:.0f} for a tenth), all there already: {again:.1f} s"
            )
            shutil.rmtree(work / "out-few")
            shutil.rmtree(work / "out")
    if options.out:
        record = {"version": __version__, "images": options.images, "rows": rows}
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
