"""Aligns faces anew that were cut badly: too small, off the template, framed in black."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from facepurify.errors import DataError, LandmarkError, ModelContractError, ModelNotFoundError
from facepurify.extras import require
from facepurify.files import atomic_path, make_folder
from facepurify.geometry import align
from facepurify.imagefiles import SUFFIXES

__all__ = ["Landmarks", "realign", "tile"]

Bytes = npt.NDArray[np.uint8]
DARK = 12
# The frame's edge is ragged by the JPEG: gaps and specks of up to this side are not its border.
SPECK = 9
# The outermost pixels of a tile are mixed with the black around it.
EDGE = 4
# Detectors want to see around a face; what is outside the tile is drawn out of its edge.
MARGIN = 0.75
DETECTOR_SIDE = 320
QUALITY = 95


class Landmarks:
    """Five landmarks by a detector of insightface's format (SCRFD), as an ONNX file.

    Raises:
        MissingExtraError: insightface is not installed.
        ModelNotFoundError: there is no such file.
        ModelContractError: insightface knows no face detector in it.
    """

    def __init__(self, detector: str | Path) -> None:
        require("insightface", "insightface")
        from insightface import model_zoo

        if not Path(detector).is_file():
            raise ModelNotFoundError(f"expected a face detector's .onnx file, got {detector}")
        self._model: Any = model_zoo.get_model(str(detector), providers=["CPUExecutionProvider"])
        if getattr(self._model, "taskname", "") != "detection":
            raise ModelContractError(
                f"expected a face detector as insightface ships them, got {detector}"
            )
        self._model.prepare(-1, input_size=(DETECTOR_SIDE, DETECTOR_SIDE), det_thresh=0.4)

    def find(self, photo: Bytes) -> npt.NDArray[np.float32] | None:
        """[5, 2] of the surest face of uint8 [H, W, 3] BGR, in pixels; None if there is none."""
        boxes, points = self._model.detect(photo)
        return None if len(boxes) == 0 else np.asarray(points[boxes[:, 4].argmax()], np.float32)


def tile(image: Bytes) -> Bytes | None:
    """The part of uint8 [H, W, 3] inside its black frame; None if there is next to none.

    >>> framed = np.zeros((112, 112, 3), np.uint8); framed[30:100, 20:90] = 200
    >>> tile(framed).shape
    (62, 62, 3)
    """
    square = np.ones((SPECK, SPECK), np.uint8)
    lit = (image.max(axis=-1) > DARK).astype(np.uint8)
    lit = cv2.morphologyEx(cv2.morphologyEx(lit, cv2.MORPH_CLOSE, square), cv2.MORPH_OPEN, square)
    count, _, boxes, _ = cv2.connectedComponentsWithStats(lit)
    if count < 2:
        return None
    left, top, width, height, _ = boxes[1 + boxes[1:, cv2.CC_STAT_AREA].argmax()]
    if min(width, height) <= 4 * EDGE:
        return None
    return image[top + EDGE : top + height - EDGE, left + EDGE : left + width - EDGE]


def realign(source: str | Path, detector: Landmarks, target: str | Path) -> dict[str, int]:
    """Finds the face in every image below ``source`` and writes its aligned crop to ``target``.

    Crops keep their relative path and become JPEG. What is there already is not made again, so
    an interrupted run goes on.

    Returns:
        How many crops were written, were there already, and had no face.

    Raises:
        DataError: there is no image below ``source``.
    """
    source, target = Path(source), Path(target)
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"expected a folder with images, got {source}")
    counts = {"written": 0, "there": 0, "no face": 0}
    for path in tqdm(paths, desc="aligning", unit="face"):
        crop_path = (target / path.relative_to(source)).with_suffix(".jpg")
        if crop_path.exists():
            counts["there"] += 1
            continue
        crop = _crop(cv2.imread(str(path), cv2.IMREAD_COLOR), detector)
        if crop is None:
            counts["no face"] += 1
            continue
        make_folder(crop_path.parent)
        with atomic_path(crop_path) as temporary:
            cv2.imwrite(str(temporary), crop, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        counts["written"] += 1
    return counts


def _crop(image: Any, detector: Landmarks) -> Bytes | None:
    inside = None if image is None else tile(np.asarray(image, np.uint8))
    if inside is None:
        return None
    margin = round(MARGIN * max(inside.shape[:2]))
    photo = cv2.copyMakeBorder(inside, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    landmarks = detector.find(np.asarray(photo, np.uint8))
    if landmarks is None:
        return None
    try:
        return np.asarray(align(photo, landmarks), np.uint8)
    except LandmarkError:
        return None
