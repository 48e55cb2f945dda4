"""``python -m facepurify inspect``: what a purifier removes from a face, as a picture sheet."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..geometry import align
from ..imagefiles import read_image, write_image
from .finding import locate
from .jobs import check_sheet
from .options import (
    add_face_options,
    add_purifier_options,
    add_seed_option,
    finder_of,
    purifier_of,
)
from .sheet import antibody_of, draw_sheet, panels_of, verdict

__all__ = ["add_arguments", "run"]

_SIDE = 336  # three times the side of an aligned crop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="photo or aligned face crop")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="SHEET", help="the sheet to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a sheet that exists")
    add_seed_option(parser)
    add_face_options(parser)
    add_purifier_options(parser)


def run(args: argparse.Namespace) -> int:
    """Inspect every face of one image, draw the sheet and print the scores.

    Returns:
        The exit status, 0.
    """
    check_sheet(args.output, args.overwrite, args.image)
    pixels = read_image(args.image).pixels
    purifier = purifier_of(args)
    landmarks = locate(pixels, finder_of(args))
    crops = [pixels] if landmarks is None else [align(pixels, face) for face in landmarks]
    inspections = purifier.inspect(crops, seed=args.seed)
    sheet = draw_sheet(
        f"{args.image.name}, purified with {purifier.info.name}",
        ["before", "after", "removed"],
        [panels_of(inspection) for inspection in inspections],
        ["Removed: mid-grey is nothing. A score is no liveness test."],
        side=_SIDE,
    )
    write_image(args.output, sheet)
    for number, inspection in enumerate(inspections, start=1):
        print(f"face {number}: {verdict(inspection)}{antibody_of(inspection)}")
    print(f"drew {len(inspections)} face(s) on {args.output}")
    return 0
