"""Puts an exported file under ``models/`` and into its manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from facepurify import __version__
from facepurify.errors import DataError
from facepurify.files import atomic_path, make_folder

__all__ = ["Origin", "publish_purifier", "publish_recognizer"]


class Origin:
    """Where a model comes from and what that allows.

    Args:
        training_data: names of the face sets.
        licence: a plain sentence for the user.
    """

    def __init__(self, training_data: Sequence[str], licence: str) -> None:
        if not training_data or not licence:
            raise DataError(
                "expected --training-data and --licence to publish a model: its users must know"
            )
        self.fields = {"training_data": list(training_data), "licence": licence}


def publish_purifier(
    file: Path,
    folder: Path,
    name: str,
    origin: Origin,
    *,
    method: str,
    masks: Sequence[str],
    threshold: float,
    difference: float,
) -> None:
    """Copies a purifier as ``name``.onnx and describes it in the manifest.

    Args:
        file: the exported ONNX.
        folder: ``models/``; the first purifier published becomes the default.
        name: what ``Purifier(name)`` will take.
        origin: data and licence.
        method: the published method.
        masks: how it can be run, the default first.
        threshold: score from which an image is suspicious.
        difference: largest one between torch and ONNX Runtime at export.
    """
    model = onnx.load(file)
    entry = {
        **_described(file, name),
        "method": method,
        "opset": model.opset_import[0].version,
        "input": {"name": "image", "shape": ["N", 3, 112, 112], "colour": "RGB", "range": [0, 1]},
        "outputs": [output.name for output in model.graph.output],
        "masks": list(masks),
        "score_threshold": threshold,
        **origin.fields,
        "parity": {"max_abs_difference": difference},
    }
    _publish(file, folder, "models", name, entry)


def publish_recognizer(file: Path, folder: Path, name: str, origin: Origin) -> None:
    """Copies a recognizer as ``name``.onnx and describes it in the manifest."""
    _publish(file, folder, "recognizers", name, {**_described(file, name), **origin.fields})


def _described(file: Path, name: str) -> dict[str, Any]:
    data = file.read_bytes()
    return {
        "file": f"{name}.onnx",
        "card": f"{name}.md",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "version": __version__,
    }


def _publish(file: Path, folder: Path, section: str, name: str, entry: dict[str, Any]) -> None:
    make_folder(folder)
    path = folder / "manifest.json"
    if path.exists():
        manifest = json.loads(path.read_text("utf-8"))
    else:
        manifest = {"schema": 1, "default": "", "models": {}, "recognizers": {}}
    manifest[section][name] = entry
    if section == "models" and manifest["default"] not in manifest["models"]:
        manifest["default"] = name
    with atomic_path(folder / entry["file"]) as temporary:
        temporary.write_bytes(file.read_bytes())
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
