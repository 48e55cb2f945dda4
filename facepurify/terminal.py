"""Text that a terminal shows, and the end of a command that writes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

__all__ = ["exit_with", "printable"]


def printable(message: str) -> str:
    r"""Escape what a terminal would act on: a message may name a stranger's file.

    Example:
        >>> print(printable("no face in \x1b[2Jphoto.jpg"))
        no face in \x1b[2Jphoto.jpg
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in message
    )


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command line and end the process with its status.

    A caller who closed an output does not want it; much of what writes cannot bear that.
    Whoever reads the output may have read enough, as ``head`` has: then the status is 1, without
    a traceback.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 (until the end)
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # what is still buffered has nowhere to go; the interpreter would try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
