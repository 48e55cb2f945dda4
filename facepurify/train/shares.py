"""Shares in a recipe: of a batch, of the steps, of all images."""

from __future__ import annotations

from facepurify.errors import OptionError

__all__ = ["check_parts", "check_shares"]


def check_shares(**shares: float) -> None:
    """Each is one from 0 to 1.

    Raises:
        OptionError: one is not.

    >>> check_shares(fresh=0.5, redraw=1.0)
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise OptionError(f"expected {name} from 0 to 1, got {share}")


def check_parts(**parts: float) -> None:
    """They are shares of one whole, which has a rest or none.

    Raises:
        OptionError: they are not.

    >>> check_parts(clean=0.3, noisy=0.1)
    """
    check_shares(**parts)
    if sum(parts.values()) > 1:
        raise OptionError(f"expected {', '.join(parts)} of 1 together at most, got {parts}")
