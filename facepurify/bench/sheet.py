"""A sheet of example faces: clean, attacked, and what each defence makes of the attacked one."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from facepurify.bench.defences import Defence
from facepurify.bench.steps import to_bytes, to_float

__all__ = ["draw_sheet"]

_HEADER, _GAP = 18, 4


def draw_sheet(
    clean: NDArray[np.uint8], attacked: NDArray[np.uint8], defences: Sequence[Defence]
) -> bytes:
    """Draw a PNG with a row for each face.

    Args:
        clean: uint8 [N, 112, 112, 3], RGB.
        attacked: The same faces, attacked.
        defences: A column for each.
    """
    columns = {"clean": clean, "attacked": attacked}
    for defence in defences:
        columns[defence.name] = to_bytes(defence.purify(to_float(attacked)))
    side = clean.shape[1] + _GAP
    sheet = np.full((_HEADER + len(clean) * side, len(columns) * side, 3), 255, np.uint8)
    for column, (name, faces) in enumerate(columns.items()):
        left = column * side
        cv2.putText(
            sheet, name, (left, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA
        )
        for row, face in enumerate(faces):
            top = _HEADER + row * side
            sheet[top : top + face.shape[0], left : left + face.shape[1]] = face[..., ::-1]
    _, encoded = cv2.imencode(".png", sheet)
    return encoded.tobytes()
