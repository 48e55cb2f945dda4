"""Text that a terminal shows."""

from __future__ import annotations

__all__ = ["printable"]


def printable(message: str) -> str:
    r"""Escape what a terminal would act on: a message may name a stranger's file.

    Example:
        >>> print(printable("no face in \x1b[2Jphoto.jpg"))
        no face in \x1b[2Jphoto.jpg
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in message
    )
