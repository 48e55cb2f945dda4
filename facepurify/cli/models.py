"""``python -m facepurify models``: list the shipped models, or verify their files."""

from __future__ import annotations

import argparse
import sys

from ..errors import FacePurifyError
from ..weights import read_manifest, read_model

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["list", "verify"],
        default="list",
        help="list them (default), or verify checksum and contract of each file",
    )


def run(args: argparse.Namespace) -> int:
    """List or verify the models.

    Returns:
        The exit status: 1 if a model does not verify.
    """
    return _verify() if args.action == "verify" else _list()


def _list() -> int:
    manifest = read_manifest()
    for entry in manifest.models.values():
        default = " (recommended)" if entry.name == manifest.default else ""
        masks = ", ".join(entry.masks) or "none"
        print(f"{entry.name}{default}: {entry.method}, version {entry.version}")
        print(f"  file      {entry.path} ({entry.bytes / 1e6:.1f} MB)")
        print(f"  card      {entry.card}")
        print(f"  masks     {masks}")
        print(f"  trained   on {', '.join(entry.training_data)}")
        print(f"  licence   {entry.licence}")
    return 0


def _verify() -> int:
    broken = 0
    for name in read_manifest().models:
        try:
            model = read_model(name)
        except FacePurifyError as error:
            broken += 1
            print(f"{name}: {error}", file=sys.stderr)
        else:
            print(f"{name}: ok, sha256 {model.sha256}")
    return 1 if broken else 0
