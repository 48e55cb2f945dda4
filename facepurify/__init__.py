"""Purify face images of adversarial perturbations before a recognizer sees them.

Example:
    >>> import numpy as np
    >>> from facepurify import ARCFACE_TEMPLATE, align
    >>> photo = np.zeros((250, 250, 3), np.uint8)
    >>> align(photo, ARCFACE_TEMPLATE + 60).shape
    (112, 112, 3)
"""

from __future__ import annotations

from .errors import (
    AttackError,
    DataError,
    FacePurifyError,
    ImageError,
    ImageFileError,
    ImageShapeError,
    ImageTooLargeError,
    ImageTypeError,
    ImageValueError,
    LandmarkDegenerateError,
    LandmarkError,
    LandmarkOutsideError,
    LandmarkShapeError,
    MissingExtraError,
    ModelChecksumError,
    ModelContractError,
    ModelError,
    ModelNotFoundError,
    ModelOutputError,
    NoFaceError,
    OptionError,
    OutputError,
    OutputExistsError,
    ProviderError,
    SeedError,
    WorkerError,
    WrapError,
)
from .geometry import ARCFACE_TEMPLATE, align
from .inspection import Inspection
from .purifier import ModelInfo, Purified, Purifier

__all__ = [
    "ARCFACE_TEMPLATE",
    "AttackError",
    "DataError",
    "FacePurifyError",
    "ImageError",
    "ImageFileError",
    "ImageShapeError",
    "ImageTooLargeError",
    "ImageTypeError",
    "ImageValueError",
    "Inspection",
    "LandmarkDegenerateError",
    "LandmarkError",
    "LandmarkOutsideError",
    "LandmarkShapeError",
    "MissingExtraError",
    "ModelChecksumError",
    "ModelContractError",
    "ModelError",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelOutputError",
    "NoFaceError",
    "OptionError",
    "OutputError",
    "OutputExistsError",
    "ProviderError",
    "Purified",
    "Purifier",
    "SeedError",
    "WorkerError",
    "WrapError",
    "__version__",
    "align",
]

__version__ = "0.1.0"
