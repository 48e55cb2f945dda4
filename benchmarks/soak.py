"""Mixed calls from several threads for a long time; memory may not grow, results may not change.

    python benchmarks/soak.py --minutes 30 --out soak.json

Each thread goes through crops, lists, photos, inspections, refused inputs, and purifiers that are
opened, pickled and closed. Memory is measured in two ways:

- under load, ten times a second: what is resident, and what of it is anonymous (no file's pages);
- at rest, fifty times: all threads wait between two calls, and what malloc and Python have handed
  out is counted. Here a leak of some bytes a call shows; what malloc keeps for later does not.

`--call session` is a control: sessions of ONNX Runtime alone, opened and closed without facepurify.

Growth is the median of the last fifth of the samples over that of the first fifth, after a tenth of
the time to warm up. Exits with 1 if one of the four is above the limit, or if a result differs from
the first one. Linux with glibc 2.33 or newer only: it reads /proc, and asks malloc.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
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
import onnxruntime
from numpy.typing import NDArray

import facepurify
from facepurify import FacePurifyError, Purifier
from facepurify.files import atomic_path
from facepurify.geometry import align
from facepurify.imagefiles import read_image
from facepurify.samples import sample_faces
from facepurify.weights import read_manifest, read_model

WARM_UP = 0.1  # share of the time
RESTS = 50  # of which a tenth would fall into the warm-up, and are left out
INTERVAL = 0.1  # seconds between two samples under load
CONTROL = "session"  # not among the mixed calls
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # variables that change what malloc does


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

    content = read_model(model or read_manifest().default).content

    def session() -> bytes:
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        quiet.intra_op_num_threads = 1
        onnxruntime.InferenceSession(content, quiet, providers=["CPUExecutionProvider"])
        return b""

    return {
        CONTROL: session,
        "crop": lambda: purifier.purify(crop).tobytes(),
        "list": lambda: b"".join(image.tobytes() for image in purifier.purify(odd)),
        "batch": lambda: purifier.purify(np.stack([crop, noisy] * 9)).tobytes(),
        "photo": lambda: purifier.purify(photo, landmarks=face.landmarks).tobytes(),
        "inspect": lambda: purifier.inspect(noisy).removed.tobytes(),
        "refuse": refuse,
        "reopen": reopen,
    }


_COUNTS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")


class MallocState(ctypes.Structure):
    """What ``mallinfo2`` returns: bytes and counts, over all arenas."""

    _fields_ = [(name, ctypes.c_size_t) for name in (*_COUNTS, "uordblks", "fordblks", "keepcost")]


def under_load() -> dict[str, float]:
    """Megabytes that this process has in memory, and those of them that are no file's."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    return {"resident": int(pages[1]) * page, "anonymous": (int(pages[1]) - int(pages[2])) * page}


def at_rest() -> dict[str, float]:
    """Megabytes that malloc has handed out and not got back, and blocks that Python has."""
    gc.collect()  # empties the interpreter's lists of freed objects, too, which count as blocks
    # The cache of attributes holds up to 4096 names as they come by; its old name warns in 3.13.
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallocState
    state = mallinfo2()
    allocated = (state.uordblks + state.hblkhd) / 1e6  # from arenas, and mapped one by one
    return {"allocated": allocated, "blocks": sys.getallocatedblocks()}


def settle() -> None:
    """Let the interpreter's table of interned strings grow as it would after some thousand calls.

    Short-lived strings use up its places, after which it doubles once (0.5 MB) and stays so.
    """
    for number in range(1 << 16):
        sys.intern(f"settle {number}")


def trim() -> None:
    """Give the system back what malloc keeps for later."""
    ctypes.CDLL(None).malloc_trim(0)


def growth(samples: Sequence[float]) -> float:
    """Growth in per cent from the first fifth of the samples to the last."""
    fifth = max(1, len(samples) // 5)
    return 100 * (median(samples[-fifth:]) / median(samples[:fifth]) - 1)


def fifths(samples: Sequence[float]) -> list[float]:
    """Median of each fifth of the samples: whether growth goes on, or came to an end."""
    fifth = max(1, len(samples) // 5)
    parts = [samples[start : start + fifth] for start in range(0, len(samples), fifth)]
    return [median(part) for part in parts[:5]]


def summary(samples: Sequence[float]) -> dict[str, float | list[float]]:
    """What the record keeps of one measure."""
    return {
        "first": samples[0],
        "last": samples[-1],
        "highest": max(samples),
        "fifths": fifths(samples),
        "growth_percent": growth(samples),
    }


def soak(
    calls: Mapping[str, Callable[[], bytes]], seconds: float, threads: int
) -> tuple[Counter[str], Counter[str], dict[str, NDArray[np.float64]]]:
    """Call from several threads, and sample the memory.

    Returns:
        How often each call was made, how often its result differed, and the samples of each
        measure after the warm-up.
    """
    settle()
    expected = {name: call() for name, call in calls.items()}
    made: list[Counter[str]] = [Counter() for _ in range(threads)]
    different: list[Counter[str]] = [Counter() for _ in range(threads)]
    stop, rest = threading.Event(), threading.Event()
    gate = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        names = list(calls)
        while not stop.is_set():
            if rest.is_set():
                gate.wait()  # all are here
                gate.wait()  # and may go on
            name = names[(number + made[number].total()) % len(names)]
            try:
                different[number][name] += calls[name]() != expected[name]
            except Exception as error:  # it counts as another result, and the rest goes on
                different[number][f"{name}: {error!r}"] += 1
            made[number][name] += 1

    # Places for all samples at once: a list that grows would count as a leak.
    places = int(seconds / INTERVAL) + RESTS + 2
    samples = {name: np.full(places, np.nan) for name in (*under_load(), *at_rest())}
    taken = Counter[str]()

    def sample(measured: Mapping[str, float]) -> None:
        for name, value in measured.items():
            samples[name][taken[name]] = value
            taken[name] += 1

    def sample_at_rest() -> None:
        rest.set()
        gate.wait()
        sample(at_rest())
        rest.clear()
        gate.wait()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    begin = time.monotonic()
    due = WARM_UP * seconds
    for worker in workers:
        worker.start()
    while (passed := time.monotonic() - begin) < seconds:
        if passed >= WARM_UP * seconds:
            sample(under_load())
        if passed >= due:
            sample_at_rest()
            due += seconds / RESTS
        time.sleep(INTERVAL)
    sample(under_load())  # still under load, and there however short the run
    sample_at_rest()
    stop.set()
    for worker in workers:
        worker.join()
    taken_of = {name: values[: taken[name]] for name, values in samples.items()}
    return sum(made, Counter()), +sum(different, Counter()), taken_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=4, help="threads that call")
    parser.add_argument("--limit", type=float, default=1.0, help="growth allowed, per cent")
    parser.add_argument("--model", metavar="NAME|ONNX")
    parser.add_argument("--call", action="append", metavar="NAME", help="this kind only; repeats")
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    with Purifier(options.model, threads=1) as purifier:
        calls = mixed_calls(options.model, purifier)
        if unknown := set(options.call or calls) - set(calls):
            parser.error(f"expected calls among {', '.join(calls)}, got {', '.join(unknown)}")
        mixed = [name for name in calls if name != CONTROL]
        calls = {name: calls[name] for name in options.call or mixed}
        made, different, samples = soak(calls, 60 * options.minutes, options.threads)
        measures = {name: summary(series) for name, series in samples.items()}
        idle = under_load()
        trim()
        record = {
            "facepurify": facepurify.__version__,
            "model": purifier.info.name,
            "sha256": purifier.info.sha256,
            "malloc": {
                name: value for name, value in os.environ.items() if name.startswith(SETTINGS)
            },
            "minutes": options.minutes,
            "threads": options.threads,
            "calls": dict(made),
            "different": dict(different),
            "memory": measures,
            "idle": idle,
            "idle_trimmed": under_load(),
            "limit_percent": options.limit,
        }
    grew = [name for name, one in measures.items() if one["growth_percent"] > options.limit]
    print(json.dumps(record, indent=1))
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")
    return 1 if different or grew else 0


if __name__ == "__main__":
    sys.exit(main())
