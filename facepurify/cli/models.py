"""``python -m facepurify models``: list the shipped purifiers, or verify every shipped file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from ..errors import FacePurifyError
from ..weights import ModelFile, ShippedEntry, read_manifest, read_model, verify_recognizer

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["list", "verify"],
        default="list",
        help="list the purifiers (default), or verify their checksums and contracts and the "
        "checksums of the recognizers",
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
    manifest = read_manifest()
    verified = [
        *[_verifies(name, read_model, name) for name in manifest.models],
        *[
            _verifies(f"recognizer {name}", verify_recognizer, name)
            for name in manifest.recognizers
        ],
    ]
    return 0 if all(verified) else 1


def _verifies(label: str, verify: Callable[[str], ModelFile | ShippedEntry], name: str) -> bool:
    """Verify one shipped file, and say what came of it."""
    try:
        found = verify(name)
    except FacePurifyError as error:
        print(f"{label}: {error}", file=sys.stderr)
        return False
    print(f"{label}: ok, sha256 {found.sha256}")
    return True
