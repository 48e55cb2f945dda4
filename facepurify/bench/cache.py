"""Finished work on disk, found again by its content.

An entry's name is the hash of everything that determines its arrays, so a stopped run resumes where
it was, and a run with one more purifier reuses every attack. Entries are ``.npz`` files without
pickles, written to a temporary file and moved into place.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepurify.errors import OutputError
from facepurify.files import atomic_path

__all__ = ["Arrays", "Cache", "digest", "source_digest"]

Arrays = dict[str, NDArray[Any]]


def digest(*parts: NDArray[np.generic] | Mapping[str, object] | str | bytes) -> str:
    """Return the SHA-256, in hex, of arrays (with type and shape), JSON-able mappings and text.

    >>> digest(np.zeros(2)) == digest(np.zeros(2)), digest(np.zeros(2)) == digest(np.zeros((1, 2)))
    (True, False)
    """
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            _add(hasher, f"{part.dtype.str}{part.shape}".encode())
            _add(hasher, np.ascontiguousarray(part).data)
        elif isinstance(part, Mapping):
            _add(hasher, json.dumps(part, sort_keys=True).encode())
        else:
            _add(hasher, part.encode() if isinstance(part, str) else part)
    return hasher.hexdigest()


def source_digest(*patterns: str) -> str:
    """Return the SHA-256 of the package's source files that match, so that new code is seen.

    Args:
        *patterns: Glob patterns relative to the ``facepurify`` folder.
    """
    root = Path(__file__).resolve().parents[1]
    files = sorted({path for pattern in patterns for path in root.glob(pattern)})
    return digest(*(path.relative_to(root).as_posix() + path.read_text("utf-8") for path in files))


class Cache:
    """A folder of ``.npz`` files named by the hash of what they hold.

    Args:
        folder: Where the files lie; made when missing.

    Raises:
        OutputError: If the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"expected a folder to keep finished work in, cannot make {folder}: {error}"
            ) from error

    def get(self, key: str) -> Arrays | None:
        """Return the arrays kept under ``key``, or None where there are none.

        A file that is no longer readable counts as none: it is made again from its key.
        """
        try:
            with (
                self._path(key).open("rb") as file,
                np.load(file, allow_pickle=False) as stored,
            ):
                return {name: stored[name] for name in stored.files}
        except Exception:  # zipfile, its decompressors and numpy raise a dozen classes
            return None

    def put(self, key: str, arrays: Arrays) -> None:
        """Keep ``arrays`` under ``key``.

        Raises:
            OutputError: If they cannot be written; what was kept before stays.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            full = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            raise OutputError(
                f"expected to write {path}, but {full}; finished work is kept in {self.folder}: "
                "make room and run the same command again to go on from there"
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"


def _add(hasher: hashlib._Hash, data: bytes | memoryview) -> None:
    # Lengths keep neighbours apart: digest("ab", "c") is not digest("a", "bc").
    hasher.update(f"{len(data) if isinstance(data, bytes) else data.nbytes}:".encode())
    hasher.update(data)
