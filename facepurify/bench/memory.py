"""How the C library deals with the memory of large tensors."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20


def keep_freed_memory() -> None:
    """Ask glibc to keep what tensors free for the next ones, up to 1 GiB.

    By default it gives large blocks back to the system after every layer, and the system clears
    them again at every use: nearly half the time of an attack on a CPU. Does nothing where the C
    library is another.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, 1 << 30)
