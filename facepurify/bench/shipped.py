"""The reference recognizer that the package ships for the run without arguments."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from facepurify.errors import ModelChecksumError, ModelNotFoundError, OptionError
from facepurify.weights import read_manifest

__all__ = ["shipped_recognizer"]


def shipped_recognizer() -> Path:
    """Return the file of the shipped recognizer, after its checksum held.

    Raises:
        OptionError: If none is shipped.
        ModelChecksumError: If its file is not the one that the manifest describes.
    """
    try:
        manifest = read_manifest()
        folder = manifest.models[manifest.default].path.parent
        entries = json.loads((folder / "manifest.json").read_text("utf-8")).get("recognizers", {})
        entry = next(iter(entries.values()))
        path = folder / entry["file"]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (ModelNotFoundError, OSError, StopIteration) as error:
        raise OptionError(
            "expected --recognizer FILE.onnx, an ArcFace-style recognizer to attack: "
            "this installation ships none"
        ) from error
    if digest != entry["sha256"]:
        raise ModelChecksumError(
            f"expected {path} with sha256 {entry['sha256']}, got {digest}; "
            "the file was altered, reinstall facepurify"
        )
    return Path(path)
