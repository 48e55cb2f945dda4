"""Start-up and memory of a purifier beside a recognizer's, each in fresh processes, in turns.

    python benchmarks/footprint.py --recognizer mobilefacenet_ms1m.onnx --out footprint.json

A process of the purifier imports facepurify, opens the model, and purifies one face of a photo; one
of the recognizer imports ONNX Runtime, opens the file, and embeds one crop. Measured are the
seconds from before the imports until the first result, and the megabytes resident at the peak;
medians of five. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median

from facepurify.files import atomic_path
from facepurify.weights import read_manifest

RUNS = 5
RECOGNIZER = "recognizer"
# Not getrusage's maximum: a process begins with that of the one that started it.
SCRIPT = """
import re, sys, time
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
status = open("/proc/self/status").read()
print(seconds, int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024)
"""
PURIFY = """
from facepurify import Purifier
from facepurify.imagefiles import read_image
from facepurify.samples import sample_faces
face = sample_faces()[0]
photo = read_image(face.path).pixels
Purifier(sys.argv[1], threads=1).purify(photo, landmarks=face.landmarks)
"""
EMBED = """
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: numpy.zeros((1, 3, 112, 112), numpy.float32)})
"""
MEASURES = ("seconds to the first result", "megabytes at the peak")


def once(work: str, argument: str) -> list[float]:
    """Seconds and megabytes of a fresh process."""
    command = [sys.executable, "-c", SCRIPT.replace("{work}", work), argument]
    return [float(word) for word in subprocess.check_output(command, text=True).split()]  # noqa: S603


def measure(name: str, recognizer: str) -> dict[str, dict[str, float]]:
    """Both measures of both, by what ``compare.py`` calls them."""
    pairs = [(once(PURIFY, name), once(EMBED, recognizer)) for _ in range(RUNS)]
    return {
        f"{name}, {RECOGNIZER}, {what}": {
            name: median(mine[place] for mine, _ in pairs),
            RECOGNIZER: median(theirs[place] for _, theirs in pairs),
        }
        for place, what in enumerate(MEASURES)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recognizer", required=True, metavar="ONNX")
    parser.add_argument("--purifier", action="append", metavar="NAME|ONNX", help="or a chain")
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    record: dict[str, dict[str, float]] = {}
    for name in options.purifier or [*read_manifest().models, "uddn+pin"]:
        record |= (measured := measure(name, options.recognizer))
        for what, values in zip(MEASURES, measured.values(), strict=True):
            mine, theirs = values.values()
            print(f"{name}: {mine:.2f} {what}, {mine / theirs:.2f} of the recognizer's")
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
