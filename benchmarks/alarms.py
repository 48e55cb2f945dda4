"""What a purifier does to honest faces that are noisy, or badly stored.

    python benchmarks/alarms.py faces/ --purifier immune

Aligned 112x112 faces of a folder, as they are, stored once more as JPEG and with a camera's noise
(Gaussian). Of each way, the share whose score reaches the threshold that the manifest has for the
model, and how like the face as it is they are to the shipped recognizer without the purifier and
with it (mean cosine).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from facepurify import Purifier
from facepurify.cli.likeness import Likeness
from facepurify.errors import DataError, OptionError
from facepurify.files import atomic_path
from facepurify.honest import noisy, recoded
from facepurify.imagefiles import read_image
from facepurify.weights import read_manifest

CHUNK = 64

Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", metavar="DIR", help="of aligned faces, .jpg or .png")
    parser.add_argument("--purifier", action="append", metavar="NAME|ONNX", help="or a chain")
    parser.add_argument("--limit", type=int, help="faces at most, drawn at random")
    parser.add_argument("--threads", type=int, help="of ONNX Runtime")
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    files = sorted(p for p in Path(options.faces).rglob("*") if p.suffix in (".jpg", ".png"))
    if not files:
        raise DataError(f"expected aligned faces in {options.faces}, got no .jpg or .png")
    order = np.random.default_rng(0).permutation(len(files))[: options.limit]
    chosen = [files[index] for index in order]
    record: dict[str, Any] = {"faces": len(chosen)}
    for name in options.purifier or [read_manifest().default]:
        record[name] = alarms(Purifier(name, threads=options.threads), chosen)
        print(f"{name}: {json.dumps(record[name])}")
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


def alarms(purifier: Purifier, files: Sequence[Path]) -> dict[str, dict[str, float]]:
    """What becomes of the faces, in each way."""
    if purifier.info.score_threshold is None:
        raise OptionError(f"expected a purifier with a threshold, got {purifier.info.name}")
    likeness, rng = Likeness(), np.random.default_rng(0)
    ways: dict[str, Callable[[Pixels], Pixels]] = {
        "as they are": lambda face: face,
        "as JPEG 75": partial(recoded, quality=75),
        "as JPEG 15": partial(recoded, quality=15),
        "noise of sigma 4": partial(noisy, sigma=4, rng=rng),
        "noise of sigma 8": partial(noisy, sigma=8, rng=rng),
    }
    sums = {way: np.zeros(3) for way in ways}
    for start in tqdm(range(0, len(files), CHUNK), desc=purifier.info.name, unit="batch"):
        faces = [read_image(file).pixels for file in files[start : start + CHUNK]]
        own = likeness.embed(faces)
        for way, change in ways.items():
            seen = [change(face) for face in faces]
            found = purifier.inspect(seen)
            sums[way] += (
                sum(bool(each.suspicious) for each in found),
                (likeness.embed(seen) * own).sum(),
                (likeness.embed([each.purified for each in found]) * own).sum(),
            )
    names = ("alarms", "likeness without", "likeness with")
    return {
        way: dict(zip(names, (total / len(files)).round(4).tolist(), strict=True))
        for way, total in sums.items()
    }


if __name__ == "__main__":
    main()
