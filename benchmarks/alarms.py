"""How often the suspicion score calls an honest face suspicious.

    python benchmarks/alarms.py faces/ --purifier immune

Aligned 112x112 faces of a folder, as they are and stored once more as JPEG of quality 75; the share
of each whose score reaches the threshold that the manifest has for the model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from facepurify import Purifier
from facepurify.errors import DataError, OptionError
from facepurify.files import atomic_path
from facepurify.imagefiles import decode_image, read_image
from facepurify.weights import read_manifest

CHUNK = 64
QUALITY = 75


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


def alarms(purifier: Purifier, files: Sequence[Path]) -> dict[str, float]:
    """The share of faces called suspicious, as they are and as JPEG files."""
    if purifier.info.score_threshold is None:
        raise OptionError(f"expected a purifier with a threshold, got {purifier.info.name}")
    counts = {"as they are": 0, f"as JPEG {QUALITY}": 0}
    for start in tqdm(range(0, len(files), CHUNK), desc=purifier.info.name, unit="batch"):
        faces = [read_image(file).pixels for file in files[start : start + CHUNK]]
        for way, images in zip(counts, (faces, [stored(face) for face in faces]), strict=True):
            counts[way] += sum(bool(found.suspicious) for found in purifier.inspect(images))
    return {way: count / len(files) for way, count in counts.items()}


def stored(face: NDArray[Any]) -> NDArray[Any]:
    """A face once through a JPEG file."""
    _, content = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return decode_image(content.tobytes()).pixels


if __name__ == "__main__":
    main()
