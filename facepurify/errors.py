"""The one tree of errors that facepurify raises.

Every message says what was expected, what came, and what to do about it.
"""

# FacePurifyError
# ├── ImageError (ValueError)
# │   ├── ImageTypeError (TypeError)      not an array, or a dtype that is no image
# │   ├── ImageShapeError                 dimensions, channels, empty
# │   ├── ImageValueError                 NaN, infinite, outside [0, 1]
# │   ├── NoFaceError                     a photo in which no face was found
# │   └── ImageFileError                  a file that is no readable image
# │       └── ImageTooLargeError          more pixels than allowed, seen before decoding
# ├── LandmarkError (ValueError)
# │   ├── LandmarkShapeError              not [5, 2] or [M, 5, 2] numbers
# │   ├── LandmarkDegenerateError         not finite, coincident, collinear: no face
# │   └── LandmarkOutsideError            no landmark lies in the photo
# ├── ModelError
# │   ├── ModelNotFoundError
# │   ├── ModelChecksumError              a shipped file was altered or cut short
# │   ├── ModelContractError              the file is not a purifier of our ONNX contract
# │   └── ModelOutputError                the model ran, but what came out is no purified face
# ├── ProviderError                       an execution provider is missing or did not start
# ├── WrapError (TypeError)               nothing here that a purifier can be put in front of
# ├── OptionError (ValueError)            an argument other than the image or the landmarks
# │   └── SeedError
# ├── MissingExtraError (ImportError)     an optional dependency is not installed
# ├── OutputError (OSError)               a result could not be written
# │   └── OutputExistsError
# ├── WorkerError (RuntimeError)          a worker process died, or did not start
# ├── DataError (ValueError)              data of a benchmark or of training
# └── AttackError (ValueError)            an attack's name or parameters

from __future__ import annotations

__all__ = [
    "AttackError",
    "DataError",
    "FacePurifyError",
    "ImageError",
    "ImageFileError",
    "ImageShapeError",
    "ImageTooLargeError",
    "ImageTypeError",
    "ImageValueError",
    "LandmarkDegenerateError",
    "LandmarkError",
    "LandmarkOutsideError",
    "LandmarkShapeError",
    "MissingExtraError",
    "ModelChecksumError",
    "ModelContractError",
    "ModelError",
    "ModelNotFoundError",
    "ModelOutputError",
    "NoFaceError",
    "OptionError",
    "OutputError",
    "OutputExistsError",
    "ProviderError",
    "SeedError",
    "WorkerError",
    "WrapError",
]


class FacePurifyError(Exception):
    """Everything that facepurify raises on purpose."""


class ImageError(FacePurifyError, ValueError):
    """The input is not an image that can be purified."""


class ImageTypeError(ImageError, TypeError):
    """Not a numpy array, or of a dtype other than uint8, float32 and float64."""


class ImageShapeError(ImageError):
    """Not HxW, HxWx3 or NxHxWx3, or empty."""


class ImageValueError(ImageError):
    """A float image with NaN, an infinity, or a value outside [0, 1]."""


class NoFaceError(ImageError):
    """A photo in which no face was found."""


class ImageFileError(ImageError):
    """A file that could not be read as an image."""


class ImageTooLargeError(ImageFileError):
    """An image file whose header announces more pixels than allowed."""


class LandmarkError(FacePurifyError, ValueError):
    """The landmarks do not place a face in the photo."""


class LandmarkShapeError(LandmarkError):
    """Not five (x, y) points a face, or not as many sets as photos."""


class LandmarkDegenerateError(LandmarkError):
    """Five points that are no face: not finite, coincident, collinear or absurdly far apart."""


class LandmarkOutsideError(LandmarkError):
    """None of the five points lies in the photo."""


class ModelError(FacePurifyError):
    """Something is wrong with a purifier's model."""


class ModelNotFoundError(ModelError):
    """No model of that name or path."""


class ModelChecksumError(ModelError):
    """The bytes of a model are not those that were expected."""


class ModelContractError(ModelError):
    """The file does not meet the ONNX contract of a purifier."""


class ModelOutputError(ModelError):
    """The model ran and gave something that is no purified face."""


class ProviderError(FacePurifyError):
    """An execution provider of ONNX Runtime is missing or did not start."""


class WrapError(FacePurifyError, TypeError):
    """The object has no place to put a purifier in front of."""


class OptionError(FacePurifyError, ValueError):
    """An option has a value that means nothing here."""


class SeedError(OptionError):
    """A seed that is not a whole number of 0 or more."""


class MissingExtraError(FacePurifyError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class OutputError(FacePurifyError, OSError):
    """A result could not be written."""


class OutputExistsError(OutputError):
    """Something is already there, and overwriting it was not asked for."""


class WorkerError(FacePurifyError, RuntimeError):
    """A worker process died, or did not start."""


class DataError(FacePurifyError, ValueError):
    """Data of a benchmark or a training run that is missing or malformed."""


class AttackError(FacePurifyError, ValueError):
    """An attack that does not exist, or parameters that it cannot run with."""
