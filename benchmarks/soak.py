"""Mixed calls from several threads for a long time; memory may not grow, results may not change.

    python benchmarks/soak.py --minutes 30 --out soak.json

Each thread goes through crops, lists, photos, inspections, refused inputs, and purifiers that are
opened, pickled and closed. Resident memory is sampled every second (four times a second in a run of
less than a minute); growth is the median of the last fifth of the samples over that of the first
fifth, after a tenth of the time to warm up. Exits with 1 if it is above the limit, or if a result
differs from the first one. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

import facepurify
from facepurify import FacePurifyError, Purifier
from facepurify.files import atomic_path
from facepurify.geometry import align
from facepurify.imagefiles import read_image
from facepurify.samples import sample_faces

WARM_UP = 0.1  # share of the time


def mixed_calls(model: str | None, purifier: Purifier) -> dict[str, Callable[[], bytes]]:
    """Calls by name; each gives bytes that must be the same every time."""
    face = sample_faces()[0]
    photo = read_image(face.path).pixels
    crop = align(photo, face.landmarks)
    noisy = np.random.default_rng(0).integers(0, 256, crop.shape, np.uint8)
    odd = [crop, noisy[:60, :80], crop[..., 0], crop / 255.0]
    broken = [crop.astype(np.int32), crop[:0], np.full((112, 112), np.nan)]

    def refuse() -> bytes:
        for image in broken:
            try:
                purifier.purify(image)
            except FacePurifyError as error:
                kind = type(error).__name__
        return kind.encode()

    def reopen() -> bytes:
        with Purifier(model, threads=1) as other, pickle.loads(pickle.dumps(other)) as again:  # noqa: S301
            return again.purify(crop).tobytes()

    return {
        "crop": lambda: purifier.purify(crop).tobytes(),
        "list": lambda: b"".join(image.tobytes() for image in purifier.purify(odd)),
        "batch": lambda: purifier.purify(np.stack([crop, noisy] * 9)).tobytes(),
        "photo": lambda: purifier.purify(photo, landmarks=face.landmarks).tobytes(),
        "inspect": lambda: purifier.inspect(noisy).removed.tobytes(),
        "refuse": refuse,
        "reopen": reopen,
    }


def resident_megabytes() -> float:
    """Memory of this process that is not on disk."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(samples: Sequence[float]) -> float:
    """Growth in per cent from the first fifth of the samples to the last."""
    fifth = max(1, len(samples) // 5)
    return 100 * (median(samples[-fifth:]) / median(samples[:fifth]) - 1)


def fifths(samples: Sequence[float]) -> list[float]:
    """Median of each fifth of the samples: whether growth goes on, or came to an end."""
    fifth = max(1, len(samples) // 5)
    parts = [samples[start : start + fifth] for start in range(0, len(samples), fifth)]
    return [median(part) for part in parts[:5]]


def soak(
    calls: Mapping[str, Callable[[], bytes]], seconds: float, threads: int
) -> tuple[Counter[str], Counter[str], list[float]]:
    """Call from several threads, and sample the memory.

    Returns:
        How often each call was made, how often its result differed, and megabytes after the
        warm-up.
    """
    expected = {name: call() for name, call in calls.items()}
    made: list[Counter[str]] = [Counter() for _ in range(threads)]
    different: list[Counter[str]] = [Counter() for _ in range(threads)]
    stop = threading.Event()

    def work(number: int) -> None:
        names = list(calls)
        while not stop.is_set():
            name = names[(number + made[number].total()) % len(names)]
            try:
                different[number][name] += calls[name]() != expected[name]
            except Exception as error:  # it counts as another result, and the rest goes on
                different[number][f"{name}: {error!r}"] += 1
            made[number][name] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    samples = []
    begin = time.monotonic()
    for worker in workers:
        worker.start()
    while (passed := time.monotonic() - begin) < seconds:
        if passed >= WARM_UP * seconds:
            samples.append(resident_megabytes())
        time.sleep(1 if seconds >= 60 else 0.25)
    samples.append(resident_megabytes())  # still under load, and there however short the run
    stop.set()
    for worker in workers:
        worker.join()
    return sum(made, Counter()), +sum(different, Counter()), samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=4, help="threads that call")
    parser.add_argument("--limit", type=float, default=1.0, help="growth allowed, per cent")
    parser.add_argument("--model", metavar="NAME|ONNX")
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    with Purifier(options.model, threads=1) as purifier:
        made, different, samples = soak(
            mixed_calls(options.model, purifier), 60 * options.minutes, options.threads
        )
        record = {
            "facepurify": facepurify.__version__,
            "model": purifier.info.name,
            "sha256": purifier.info.sha256,
            "minutes": options.minutes,
            "threads": options.threads,
            "calls": dict(made),
            "different": dict(different),
            "megabytes": {
                "first": samples[0],
                "last": samples[-1],
                "highest": max(samples),
                "fifths": fifths(samples),
            },
            "growth_percent": growth(samples),
            "limit_percent": options.limit,
        }
    print(json.dumps(record, indent=1))
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")
    return 1 if different or record["growth_percent"] > options.limit else 0


if __name__ == "__main__":
    sys.exit(main())
