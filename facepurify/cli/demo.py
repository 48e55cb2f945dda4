"""``python -m facepurify demo``: a picture sheet of real faces, offline, without any data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..extras import require
from ..geometry import align
from ..honest import noisy, recoded
from ..imagefiles import read_image, write_image
from ..purifier import Purifier
from ..samples import sample_faces
from .jobs import check_sheet
from .likeness import Likeness
from .options import add_purifier_options, purifier_of
from .sheet import Panel, draw_sheet, panels_of

__all__ = ["add_arguments", "run"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_NOISE = 8  # standard deviation, grey levels
_QUALITY = 15  # of the JPEG
_EPS = 8  # of the attack, grey levels
_STEPS = 10


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
    parser.add_argument(
        "--attack",
        action="store_true",
        help="attack the shipped recognizer instead of compressing (needs facepurify[bench])",
    )
    parser.add_argument(
        "--face",
        action="append",
        metavar="NAME",
        help="draw only this one, such as astronaut; repeatable (default: all)",
    )
    add_purifier_options(parser)


def run(args: argparse.Namespace) -> int:
    """Purify the sample faces as they are, with noise, and compressed or attacked.

    Returns:
        The exit status, 0.

    Raises:
        OptionError: There is no face of a name that was asked for.
    """
    check_sheet(args.output, args.overwrite)
    samples = sample_faces()
    names = [face.name for face in samples]
    drawn = _drawn(names, args.face)
    every = [align(read_image(face.path).pixels, face.landmarks) for face in samples]
    purifier = purifier_of(args)
    likeness = Likeness()
    embeddings = likeness.embed(every)
    crops, own = [every[place] for place in drawn], embeddings[drawn]
    rng = np.random.default_rng(0)
    grainy = [noisy(crop, _NOISE, rng) for crop in crops]
    groups = [
        _group("as it is", crops, own, "itself", purifier, likeness),
        _group(f"Gaussian noise, sigma {_NOISE}", grainy, own, "itself", purifier, likeness),
    ]
    if args.attack:
        # Each face is to be taken for the next one of all.
        victims = np.roll(embeddings, -1, axis=0)[drawn]
        name = f"PGD-{_STEPS}, {_EPS}/255"
        attacked = _attacked(crops, victims, likeness.path)
        groups.append(_group(name, attacked, victims, "victim", purifier, likeness))
    else:
        compressed = [recoded(crop, _QUALITY) for crop in crops]
        name = f"JPEG, quality {_QUALITY}"
        groups.append(_group(name, compressed, own, "itself", purifier, likeness))
    sheet = draw_sheet(
        f"What {purifier.info.name} does to faces",
        [heading for name, _ in groups for heading in (name, "purified", "removed")],
        [
            [panel for _, rows in groups for panel in rows[number]]
            for number in range(len(crops))
        ],
        [
            "Below a purified face: its cosine to a face for the shipped recognizer, before and "
            "after. Removed: mid-grey is nothing; the gain differs from picture to picture.",
            "The attacker knows the recognizer and no purifier; each face is to be taken for "
            "another. For one who knows both, run python -m facepurify.bench."
            if args.attack
            else "Noise and JPEG are no attacks. For one, add --attack; for measurements, run "
            "python -m facepurify.bench.",
        ],
    )  # fmt: skip
    write_image(args.output, sheet)
    print(f"drew {', '.join(names[place] for place in drawn)} on {args.output}")
    return 0


def _drawn(names: Sequence[str], asked: Sequence[str] | None) -> list[int]:
    """Find the places of the faces that were asked for, of all if none was."""
    for name in asked or ():
        if name not in names:
            raise OptionError(f"expected --face to be one of {', '.join(names)}, got {name}")
    return [place for place, name in enumerate(names) if not asked or name in asked]


def _group(
    heading: str,
    faces: Sequence[Pixels],
    anchors: Floats,
    anchor: str,
    purifier: Purifier,
    likeness: Likeness,
) -> tuple[str, list[list[Panel]]]:
    """Purify faces; three panels of each, with its cosine to an anchor before and after."""
    inspections = purifier.inspect(list(faces), seed=0)
    before = (likeness.embed(faces) * anchors).sum(1)
    after = (likeness.embed([found.purified for found in inspections]) * anchors).sum(1)
    rows = []
    for found, was, becomes in zip(inspections, before, after, strict=True):
        seen, purified, removed = panels_of(found)
        caption = f"to {anchor} {was:.2f} -> {becomes:.2f}"
        rows.append([seen, Panel(purified.picture, caption), removed])
    return heading, rows


def _attacked(crops: Sequence[Pixels], victims: Floats, recognizer: Path) -> list[Pixels]:
    """Impersonate victims by PGD on the recognizer alone."""
    require("bench", "torch", "onnx", "onnx2torch")
    import torch

    from ..bench.attacks import PGD
    from ..bench.recognizers import Recognizer

    images = np.stack(crops)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    result = PGD(steps=_STEPS)(
        Recognizer.from_onnx(recognizer).embed,
        torch.from_numpy(images),
        torch.from_numpy(victims),
        "impersonation",
        _EPS,
        generator=torch.Generator().manual_seed(0),
    )
    levels = np.rint(result.numpy() * 255).astype(np.uint8)
    return list(np.ascontiguousarray(levels.transpose(0, 2, 3, 1)[..., ::-1]))
