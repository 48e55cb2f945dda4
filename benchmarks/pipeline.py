"""A whole insightface pipeline over photos, with and without a purifier: is every face still found?

    python benchmarks/pipeline.py photos/ --pack det_500m.onnx --pack mobileface_v2.onnx

Two ways to put a purifier in: wrapped around the recognition model, which sees purified crops; and
each photo purified as a file would be, then given to the untouched pipeline, which has to find the
faces again. Counted are faces lost, and how like (cosine) each embedding is to the one without.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from insightface.app import FaceAnalysis
from tqdm import tqdm

from facepurify import Purifier
from facepurify.errors import DataError
from facepurify.files import atomic_path
from facepurify.imagefiles import read_image

WAYS = ("wrapped", "photo")
ENDINGS = (".jpg", ".png")
FAR = 0.5  # of a box's width; a face that is found farther away is another one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", metavar="DIR", help="of photos with faces")
    parser.add_argument(
        "--pack", action="append", required=True, metavar="ONNX", help="detector, recognizer"
    )
    parser.add_argument("--purifier", action="append", metavar="NAME|ONNX", help="or a chain")
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    photos = sorted(path for path in Path(options.photos).rglob("*") if path.suffix in ENDINGS)
    record: dict[str, Any] = {"photos": len(photos)}
    with tempfile.TemporaryDirectory() as folder:
        for file in options.pack:
            shutil.copy(file, folder)
        app = FaceAnalysis(name=folder, providers=["CPUExecutionProvider"])
        app.prepare(ctx_id=-1)
        for name in options.purifier or ["default"]:
            purifier = Purifier() if name == "default" else Purifier(name)
            record[name] = study(app, purifier, tqdm(photos, desc=name, unit="photo"))
            print(f"{name}: {json.dumps(record[name])}")
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


def study(app: Any, purifier: Purifier, photos: Iterable[Path]) -> dict[str, Any]:
    """Faces found, faces lost in each way, and the mean and lowest cosine of the others."""
    cosines: dict[str, list[float]] = {way: [] for way in WAYS}
    found = 0
    for path in photos:
        photo = read_image(path).pixels
        before = app.get(photo)
        found += len(before)
        purifier.wrap(app)
        wrapped = app.get(photo)
        purifier.unwrap(app)
        landmarks = [face.kps for face in before]
        purified = app.get(purifier.purify(photo, landmarks=landmarks)) if before else []
        for way, after in zip(WAYS, (wrapped, purified), strict=True):
            cosines[way] += matched(before, after)
    if not found:
        raise DataError("expected photos with faces, got none in which one was found")
    return {"faces": found} | {
        way: {
            "lost": found - len(each),
            "mean cosine": float(np.mean(each)) if each else float("nan"),
            "lowest cosine": min(each, default=float("nan")),
        }
        for way, each in cosines.items()
    }


def matched(before: list[Any], after: list[Any]) -> list[float]:
    """The cosine between a face's embedding before and after, of those that were found again."""
    cosines = []
    for face in before:
        middle, width = face.kps.mean(axis=0), face.bbox[2] - face.bbox[0]
        away = [float(np.linalg.norm(other.kps.mean(axis=0) - middle)) for other in after]
        if away and min(away) < FAR * width:
            other = after[int(np.argmin(away))]
            cosines.append(float(face.normed_embedding @ other.normed_embedding))
    return cosines


if __name__ == "__main__":
    main()
