"""The command line: ``python -m facepurify COMMAND``."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from . import __version__
from .cli import demo, doctor, inspect, models, purify
from .errors import FacePurifyError
from .terminal import exit_with, printable

__all__ = ["main"]

_COMMANDS = {
    "purify": (purify, "purify the faces of image files"),
    "inspect": (inspect, "show what is removed from a face, and its score"),
    "models": (models, "list the shipped models, or verify their files"),
    "doctor": (doctor, "check versions, providers and models"),
    "demo": (demo, "draw a sheet of sample faces, offline"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        The exit status: 0 if all went well, 1 if something failed (argparse exits with 2 on
        wrong usage).
    """
    parser = argparse.ArgumentParser(
        prog="python -m facepurify",
        description="Take adversarial perturbations out of face images.",
    )
    parser.add_argument("--version", action="version", version=f"facepurify {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (command, text) in _COMMANDS.items():
        subparser = commands.add_parser(name, help=text, description=text)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # as standard error does by itself: the name of a file need not be Unicode
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status: int = args.run(args)
    except FacePurifyError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    exit_with(main)
