"""``python -m facepurify demo``: a picture sheet of real faces, offline, without any data."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import align
from ..imagefiles import read_image, write_image
from ..samples import sample_faces
from .jobs import check_free
from .options import add_purifier_options, purifier_of
from .sheet import Panel, draw_sheet, panels_of

__all__ = ["add_arguments", "run"]

Pixels = NDArray[np.uint8]

_NOISE = 8  # standard deviation, grey levels
_QUALITY = 15  # of the JPEG


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("facepurify-demo.png"),
        metavar="SHEET",
        help="the sheet to write (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a sheet that exists")
    add_purifier_options(parser)


def run(args: argparse.Namespace) -> int:
    """Purify the sample faces as they are, with noise and with JPEG artefacts.

    Returns:
        The exit status, 0.
    """
    check_free(args.output, args.overwrite)
    crops = [align(read_image(face.path).pixels, face.landmarks) for face in sample_faces()]
    purifier = purifier_of(args)
    rng = np.random.default_rng(0)
    kinds = ["as it is", f"Gaussian noise, sigma {_NOISE}", f"JPEG, quality {_QUALITY}"]
    variants = [crops, [_noisy(crop, rng) for crop in crops], [_recoded(crop) for crop in crops]]
    columns = [purifier.inspect(variant, seed=0) for variant in variants]
    rows: list[list[Panel]] = [
        [panel for inspection in row for panel in panels_of(inspection)]
        for row in zip(*columns, strict=True)
    ]
    sheet = draw_sheet(
        f"What {purifier.info.name} does to {len(rows)} faces",
        [heading for kind in kinds for heading in (kind, "purified", "removed")],
        rows,
        [
            "Removed: mid-grey is nothing; the gain differs from picture to picture.",
            "Noise and JPEG are no attacks. For those, and for what they do to a recognizer, run "
            "python -m facepurify.bench.",
        ],
    )
    write_image(args.output, sheet)
    print(f"drew {len(rows)} faces on {args.output}")
    return 0


def _noisy(crop: Pixels, rng: np.random.Generator) -> Pixels:
    """Add Gaussian noise."""
    return np.rint(crop + rng.normal(0, _NOISE, crop.shape)).clip(0, 255).astype(np.uint8)


def _recoded(crop: Pixels) -> Pixels:
    """Compress hard, and decompress."""
    _, code = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
