"""Memory cells at run time: codes that were met, and the antibodies that were found for them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .files import atomic_path, writing

__all__ = ["Memory"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

CAPACITY = 1024
_ALIKE = 0.9  # cosine from which a code counts as met before
_MAX_BYTES = 64 << 20


class Memory:
    """A bounded memory of antibodies; any number of threads may share it.

    The threat: whoever may send images writes to it. An attacker can fill it with his own
    antibodies, push out others' and, by timing or results, learn whom it met. What is remembered
    is a candidate of the next search only and has to win by its affinity, so a bad cell costs one
    clone; but results then depend on what came before. So it is off by default, says nothing
    about identity, and is written to a file by ``save`` alone.

    Args:
        length: K of the antibodies.
        capacity: Cells; the oldest goes first.
    """

    def __init__(self, length: int, capacity: int = CAPACITY) -> None:
        self._length = length
        self._capacity = capacity
        self._codes: Floats | None = None
        self._antibodies = np.zeros((capacity, -(-length // 8)), np.uint8)
        self._count = 0  # of all cells ever kept
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return min(self._count, self._capacity)

    def recall(self, code: Floats, otherwise: Floats) -> Floats:
        """The antibody of the likest cell, for codes that were met before.

        Args:
            code: [N, C].
            otherwise: [N, K], the antibodies of those that were not.

        Returns:
            float32 [N, K].

        Raises:
            DataError: The cells, which were loaded, are those of codes of another length.
        """
        with self._lock:
            if self._codes is None:
                return otherwise
            self._check_width(code)
            cosine = _unit(code) @ self._codes[: len(self)].T
            nearest = cosine.argmax(axis=1)
            packed = self._antibodies[nearest]
        alike = cosine[np.arange(len(code)), nearest] >= _ALIKE
        antibodies = np.unpackbits(packed, axis=1, count=self._length)
        recalled: Floats = np.where(alike[:, None], antibodies, otherwise).astype(np.float32)
        return recalled

    def keep(self, code: Floats, antibodies: Floats) -> None:
        """Remember antibodies [N, K] of 0 and 1 for their codes [N, C].

        Raises:
            DataError: As for :meth:`recall`.
        """
        packed = np.packbits(antibodies > 0, axis=1)
        with self._lock:
            self._put(_unit(code), packed)

    def _put(self, unit: Floats, packed: Bytes) -> None:
        if self._codes is None:
            self._codes = np.zeros((self._capacity, unit.shape[1]), np.float32)
        self._check_width(unit)
        for one, antibody in zip(unit, packed, strict=True):
            place = self._count % self._capacity
            self._codes[place], self._antibodies[place] = one, antibody
            self._count += 1

    def _check_width(self, code: Floats) -> None:
        if self._codes is not None and code.shape[1] != self._codes.shape[1]:
            raise DataError(
                f"expected codes of {self._codes.shape[1]} numbers, as those in memory, got "
                f"{code.shape[1]}; if these were loaded from another model's file, forget them"
            )

    def forget(self) -> None:
        """Empty it."""
        with self._lock:
            self._count, self._codes = 0, None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all cells, the oldest first, to an .npz of plain arrays.

        Raises:
            OutputError: It cannot be written there.
        """
        with self._lock:
            places = np.arange(self._count - len(self), self._count) % self._capacity
            codes = np.zeros((0, 0), np.float32) if self._codes is None else self._codes[places]
            antibodies = self._antibodies[places]
        with writing(path), atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                length=np.array(self._length),
                codes=codes,
                antibodies=antibodies,
            )

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take the cells of a file in place of what is remembered.

        Args:
            path: What ``save`` wrote. Its checksum is not known here: load only your own.

        Raises:
            DataError: Missing, damaged, too large, or of another model.
        """
        try:
            with Path(path).open("rb") as raw:
                if os.fstat(raw.fileno()).st_size > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES} bytes")
                with np.load(raw, allow_pickle=False) as file:
                    if sum(each.file_size for each in file.zip.infolist()) > _MAX_BYTES:
                        raise ValueError(f"more than {_MAX_BYTES} bytes unpacked")
                    codes, antibodies = file["codes"], file["antibodies"]
                    length = int(file["length"])
            fits = (
                length == self._length
                and codes.ndim == 2
                and codes.dtype == np.float32
                and antibodies.dtype == np.uint8
                and antibodies.shape == (len(codes), self._antibodies.shape[1])
                and len(codes) <= self._capacity
                and bool(np.isfinite(codes).all())
            )
            if not fits:
                raise ValueError(f"antibodies of {length} in {len(codes)} cells")
        except Exception as error:  # zipfile, its decompressors and numpy raise a dozen classes
            raise DataError(
                f"expected the memory of a model with antibodies of {self._length} at {path}, "
                f"as Memory.save writes it, got {error}"
            ) from error
        with self._lock:
            if len(codes):
                self._check_width(codes)
            self._count, self._codes = 0, None
            if len(codes):
                self._put(_unit(codes), antibodies)


def _unit(code: Floats) -> Floats:
    unit: Floats = code / np.maximum(np.linalg.norm(code, axis=1, keepdims=True), 1e-12)
    return unit
