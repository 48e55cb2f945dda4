"""How like two faces are to the shipped recognizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..runtime import Session
from ..weights import verify_recognizer

__all__ = ["Likeness"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Likeness:
    """The shipped reference recognizer, by ONNX Runtime.

    Raises:
        ModelNotFoundError: None is shipped.
        ModelChecksumError: Its file is not the one that the manifest describes.
    """

    def __init__(self) -> None:
        self.path = verify_recognizer("recognizer").path
        self._session = Session(self.path.read_bytes())

    def embed(self, crops: Sequence[Pixels]) -> Floats:
        """Embed aligned crops.

        Args:
            crops: N times uint8 [112, 112, 3], BGR.

        Returns:
            float32 [N, d], of length 1.
        """
        rgb = np.stack(crops)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        (raw,) = self._session.run(["embedding"], {"input": (rgb - 127.5) / 127.5})
        unit: Floats = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        return unit
