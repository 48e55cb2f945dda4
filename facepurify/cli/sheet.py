"""Picture sheets: rows of captioned pictures, drawn with OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..inspection import Inspection

__all__ = ["Panel", "antibody_of", "draw_sheet", "panels_of", "verdict"]

Pixels = NDArray[np.uint8]

_MARGIN = 24
_GAP = 8
_LINE = 22  # height of a line of text
_PAPER = (250, 250, 250)
_INK = (40, 40, 40)
_FAINT = (120, 120, 120)
_ALARM = (40, 40, 200)


class Panel(NamedTuple):
    """A picture and what is written below it.

    Attributes:
        picture: uint8, HxW or HxWx3 (BGR), square.
        caption: One short line of ASCII, may be empty.
        alarm: Whether the caption is a warning, and written in red.
    """

    picture: Pixels
    caption: str = ""
    alarm: bool = False


def verdict(inspection: Inspection) -> str:
    """Put the suspicion of a face into words.

    Returns:
        The score, and whether it reaches the threshold where there is one.

    Example:
        >>> from facepurify.inspection import compare
        >>> face = np.zeros((112, 112), np.uint8)
        >>> verdict(compare(face, face, score=0.7, threshold=0.5))
        'score 0.700: suspicious'
    """
    if inspection.score is None:
        return "no score"
    words = {None: "", True: ": suspicious", False: ": inconspicuous"}[inspection.suspicious]
    return f"score {inspection.score:.3f}{words}"


def antibody_of(inspection: Inspection) -> str:
    """Put the antibody of a face into words.

    Returns:
        How many eigenfaces it keeps and how certain it is; nothing without one.

    Example:
        >>> from facepurify.inspection import compare
        >>> face = np.zeros((112, 112), np.uint8)
        >>> mask, p = np.float32([1, 0, 1, 1]), np.float32([1, 0.25, 0.75, 1])
        >>> antibody_of(compare(face, face, mask=mask, probability=p))
        ', antibody of 3 in 4 eigenfaces, certainty 0.75'
    """
    if inspection.mask is None or inspection.active is None:
        return ""
    words = f", antibody of {len(inspection.active)} in {len(inspection.mask)} eigenfaces"
    if inspection.certainty is not None:
        words += f", certainty {inspection.certainty:.2f}"
    return words


def panels_of(inspection: Inspection) -> list[Panel]:
    """Show a face before and after, and what was removed.

    Args:
        inspection: Of a square uint8 face.

    Returns:
        Three panels.
    """
    return [
        Panel(inspection.image, verdict(inspection), alarm=bool(inspection.suspicious)),
        Panel(inspection.purified),
        Panel(inspection.removed_picture, f"amplified {inspection.removed_gain:.1f} times"),
    ]


def draw_sheet(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[Panel]],
    notes: Sequence[str] = (),
    *,
    side: int = 168,
    group: int = 3,
) -> Pixels:
    """Draw rows of pictures under headings.

    Args:
        title: The line at the top.
        headings: One line above each column.
        rows: As many panels in each as there are headings.
        notes: Lines at the bottom.
        side: Side of each picture in pixels; pictures are scaled to it.
        group: Columns that belong together; a wider gap follows each group.

    Returns:
        uint8 HxWx3, BGR.
    """
    lefts = [_MARGIN + c * (side + _GAP) + c // group * 2 * _GAP for c in range(len(headings))]
    width = lefts[-1] + side + _MARGIN
    top = _MARGIN + 3 * _LINE
    step = side + _LINE + 2 * _GAP
    height = top + len(rows) * step + len(notes) * _LINE + _MARGIN
    sheet: Pixels = np.full((height, width, 3), _PAPER, np.uint8)
    _write(sheet, title, _MARGIN, _MARGIN + _LINE // 2, width - 2 * _MARGIN, 0.75)
    for left, heading in zip(lefts, headings, strict=True):
        _write(sheet, heading, left, top - _GAP, side, 0.5)
    for index, row in enumerate(rows):
        y = top + index * step
        for left, panel in zip(lefts, row, strict=True):
            sheet[y : y + side, left : left + side] = _fitted(panel.picture, side)
            colour = _ALARM if panel.alarm else _FAINT
            _write(sheet, panel.caption, left, y + side + _LINE - _GAP // 2, side, 0.42, colour)
    for index, note in enumerate(notes):
        y = top + len(rows) * step + (index + 1) * _LINE
        _write(sheet, note, _MARGIN, y, width - 2 * _MARGIN, 0.45, _FAINT)
    return sheet


def _fitted(picture: Pixels, side: int) -> Pixels:
    """Bring a picture to BGR and to its size on the sheet."""
    if picture.ndim == 2:
        picture = np.stack([picture] * 3, axis=2)
    shrinks = picture.shape[0] > side
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=interpolation), np.uint8)


def _write(
    sheet: Pixels,
    text: str,
    x: int,
    y: int,
    width: int,
    size: float,
    colour: tuple[int, int, int] = _INK,
) -> None:
    """Write a line with its baseline at y, smaller if it would be too wide."""
    # OpenCV's fonts have ASCII only, and a file name need not even be Unicode
    text = text.encode("ascii", "replace").decode()
    font = cv2.FONT_HERSHEY_DUPLEX
    (needed, _), _ = cv2.getTextSize(text, font, size, 1)
    size *= min(1.0, width / max(needed, 1))
    cv2.putText(sheet, text, (x, y), font, size, colour, 1, cv2.LINE_AA)
