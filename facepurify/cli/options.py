"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..purifier import Purifier
from .finding import FaceFinder, open_finder

__all__ = [
    "add_face_options",
    "add_purifier_options",
    "add_seed_option",
    "finder_of",
    "purifier_of",
]


def add_purifier_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a purifier and what it runs on."""
    parser.add_argument("--model", help="name of a shipped model, or an .onnx file")
    parser.add_argument(
        "--mask",
        choices=["expected", "fixed", "sampled", "threshold"],
        help="how the antibody becomes a mask (default: the model's own)",
    )
    parser.add_argument(
        "--budget",
        type=_budget,
        metavar="CLONESxGENERATIONS",
        help="search for the antibody instead, such as 32x4; for models that can, such as ais",
    )
    parser.add_argument(
        "--provider",
        action="append",
        dest="providers",
        metavar="NAME",
        help="execution provider of ONNX Runtime, most wanted first; repeatable (default: CPU)",
    )
    parser.add_argument("--threads", type=int, help="threads within an operator")


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the faces are."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--pack",
        type=Path,
        metavar="FOLDER",
        help="insightface model pack to find faces with (default: insightface's own, if there)",
    )
    group.add_argument(
        "--aligned", action="store_true", help="every image is an aligned face crop: find nothing"
    )


def add_seed_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes a run repeatable."""
    parser.add_argument("--seed", type=_seed, help="makes a sampled mask repeatable (>= 0)")


def purifier_of(args: argparse.Namespace) -> Purifier:
    """Open the purifier that the options ask for."""
    return Purifier(
        args.model,
        providers=args.providers,
        threads=args.threads,
        mask=args.mask,
        budget=args.budget,
    )


def _budget(text: str) -> tuple[int, int]:
    clones, _, generations = text.partition("x")
    try:
        return int(clones), int(generations)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected clones and generations, such as 32x4, got {text!r}"
        ) from None


def _seed(text: str) -> int:
    # here rather than at the first image, when a folder's note is written already
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number >= 0, got {text!r}")
    return int(text)


def finder_of(args: argparse.Namespace) -> FaceFinder | None:
    """Open the detector that the options ask for, None for aligned crops."""
    return open_finder(args.pack, args.aligned, args.providers, args.threads)
