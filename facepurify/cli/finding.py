"""Where the faces of an image file are: an aligned crop, or a photo for insightface's detector."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    ImageShapeError,
    MissingExtraError,
    ModelNotFoundError,
    ModelOutputError,
    NoFaceError,
)

__all__ = ["FaceFinder", "default_pack", "locate", "open_finder"]

_INSTALL = '`pip install "facepurify[insightface]"`'


class FaceFinder:
    """insightface's detector, out of a model pack on this machine.

    Args:
        pack: A folder with a detector, as insightface loads it; no recognizer is needed.
        providers: ONNX Runtime's execution providers; None for the CPU.
        threads: Threads within an operator; None for ONNX Runtime's default.

    Raises:
        MissingExtraError: insightface is not installed, or cannot be imported.
        ModelNotFoundError: No such folder, or no detector in it.
    """

    def __init__(
        self, pack: Path, providers: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        try:
            from insightface.app import FaceAnalysis
        except Exception as error:  # a ValueError where it was compiled for another numpy
            raise MissingExtraError(
                f"expected insightface to find faces with, got {error!r}; "
                f"install it with {_INSTALL}"
            ) from error
        if not os.path.isdir(pack):  # noqa: PTH112 (Path's own raises where it may not look)
            raise ModelNotFoundError(f"expected the folder of an insightface pack, got {pack}")
        import onnxruntime  # which insightface requires

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._app: Any = FaceAnalysis(
                name=str(pack),
                allowed_modules=["detection"],
                providers=list(providers or ["CPUExecutionProvider"]),
                sess_options=options,
            )
        except Exception as error:  # among them an AssertionError where there is no detector
            raise ModelNotFoundError(
                f"expected a face detector in {pack}, insightface found none ({error!r})"
            ) from error
        self._app.prepare(ctx_id=0)

    def find(self, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Find the faces of a photo.

        Args:
            photo: uint8, HxW (grey) or HxWx3 (BGR).

        Returns:
            float32 [M, 5, 2], the landmarks of M faces in pixels.

        Raises:
            NoFaceError: There is no face.
            ModelOutputError: The detector failed.
        """
        if photo.ndim == 2:
            photo = np.stack([photo] * 3, axis=2)
        try:
            faces = self._app.get(photo)
        except Exception as error:  # it runs foreign models: anything may come
            raise ModelOutputError(f"the face detector failed: {error}") from error
        if not faces:
            raise NoFaceError(
                "expected a face, found none; give --aligned if it is an aligned face crop"
            )
        return np.stack([face.kps for face in faces]).astype(np.float32)


def default_pack() -> Path | None:
    """Find insightface's default model pack, without fetching it.

    Returns:
        Its folder; None where insightface is not installed, or where there is none that this
        process may look into.

    Raises:
        MissingExtraError: insightface is installed, but cannot be imported.
    """
    if importlib.util.find_spec("insightface") is None:
        return None
    try:
        from insightface.utils import DEFAULT_MP_NAME
    except Exception as error:
        raise MissingExtraError(
            f"expected insightface to import, got {error!r}; repair it with {_INSTALL}"
        ) from error
    try:
        pack = Path.home() / ".insightface" / "models" / DEFAULT_MP_NAME
    except RuntimeError:  # nobody says where the user is at home
        return None
    return pack if os.path.isdir(pack) else None  # noqa: PTH112 (as above)


def open_finder(
    pack: Path | None,
    aligned: bool,
    providers: Sequence[str] | None,
    threads: int | None = None,
) -> FaceFinder | None:
    """Open a detector where one is wanted and there.

    Args:
        pack: The caller's model pack; None for insightface's default one.
        aligned: Whether every image is an aligned crop, so that none is wanted.
        providers: ONNX Runtime's execution providers; None for the CPU.
        threads: Threads within an operator; None for ONNX Runtime's default.

    Returns:
        The detector; None if every image counts as an aligned crop.

    Raises:
        MissingExtraError: A pack was given, but insightface is not installed, or it is broken.
        ModelNotFoundError: The pack that was given has no detector.
    """
    if aligned:
        return None
    pack = pack or default_pack()
    return None if pack is None else FaceFinder(pack, providers, threads)


def locate(pixels: NDArray[np.uint8], finder: FaceFinder | None) -> NDArray[np.float32] | None:
    """Say where the faces of an image are.

    Args:
        pixels: uint8, HxW or HxWx3.
        finder: The detector; None if the image is an aligned crop.

    Returns:
        float32 [M, 5, 2], pixels; None for an aligned crop.

    Raises:
        ImageShapeError: It should be an aligned crop, but is not square.
        NoFaceError: The detector finds none.
    """
    if finder is not None:
        return finder.find(pixels)
    height, width = pixels.shape[:2]
    if height != width:
        raise ImageShapeError(
            f"expected a square aligned face crop, got {width}x{height}; for photos install "
            f"insightface with {_INSTALL} and name a model pack with --pack FOLDER"
        )
    return None
