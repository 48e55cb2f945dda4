"""Reading .npz files of plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facepurify.errors import DataError

__all__ = ["read_arrays"]


def read_arrays(path: str | Path, names: tuple[str, ...], maker: str) -> list[npt.NDArray[Any]]:
    """The arrays of these names, in order; nothing is unpickled.

    Args:
        path: an .npz file.
        names: what it must hold.
        maker: the command that writes such files, for the error.

    Raises:
        DataError: the file is missing, damaged, or lacks an array.
    """
    try:
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return [file[name] for name in names]
    except Exception as error:  # zipfile, its decompressors and numpy raise a dozen classes
        raise DataError(
            f"expected a file written by `python -m facepurify.train {maker}`, got {path}: {error}"
        ) from error
