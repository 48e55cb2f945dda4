"""What facepurify costs before it does anything: import time, file size, memory of one photo.

python benchmarks/footprint.py

Every figure is taken in a fresh process; medians of five.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median

from facepurify.weights import read_manifest

IMPORT = """
import time
start = time.perf_counter()
import facepurify
print(time.perf_counter() - start)
"""
PURIFY = """
import resource, sys
from facepurify import Purifier
from facepurify.imagefiles import read_image
from facepurify.samples import sample_faces
face = sample_faces()[0]
photo = read_image(face.path).pixels
Purifier(sys.argv[1]).purify(photo, landmarks=face.landmarks)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def run(script: str, *arguments: str) -> float:
    """The number that a script prints, median of five fresh processes."""
    command = [sys.executable, "-c", script, *arguments]
    return median(float(subprocess.check_output(command, text=True)) for _ in range(5))  # noqa: S603


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"import facepurify: {run(IMPORT):.2f} s")
    for name, entry in read_manifest().models.items():
        print(
            f"{name}: {entry.bytes / 1e6:.1f} MB, one photo {run(PURIFY, name):.0f} MB at its peak"
        )


if __name__ == "__main__":
    main()
