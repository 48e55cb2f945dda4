"""The reference recognizers that the package ships, to measure with where no other is named."""

from __future__ import annotations

from pathlib import Path

from facepurify.errors import ModelNotFoundError, OptionError
from facepurify.weights import verify_recognizer

__all__ = ["HARDENED", "RECOGNIZER", "find_recognizer", "shipped_recognizer"]

RECOGNIZER, HARDENED = "recognizer", "recognizer-mter"


def shipped_recognizer(name: str = RECOGNIZER) -> Path:
    """Return the file of a shipped recognizer, after its checksum held.

    Args:
        name: In the manifest.

    Raises:
        OptionError: If none of that name is shipped.
        ModelChecksumError: If its file is not the one that the manifest describes.
    """
    try:
        return verify_recognizer(name).path
    except ModelNotFoundError as error:
        raise OptionError(
            "expected a recognizer to attack, FILE.onnx of the ArcFace kind or the name of a "
            f"shipped one: {error}"
        ) from error


def find_recognizer(recognizer: str) -> Path:
    """Return the file of a recognizer, by the rule that purifiers are found by.

    Args:
        recognizer: A path that ends in ``.onnx``, or the name of a shipped one.

    Raises:
        OptionError: If it is neither.
        ModelChecksumError: If a shipped file is not the one that the manifest describes.
    """
    if recognizer.endswith(".onnx"):
        return Path(recognizer)
    return shipped_recognizer(recognizer)
