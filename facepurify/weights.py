"""Where models are found, and how their bytes are checked before anything runs them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ModelChecksumError, ModelContractError, ModelNotFoundError, OptionError
from .onnxfile import MAX_BYTES, ModelContract, read_contract

__all__ = [
    "Manifest",
    "ManifestEntry",
    "ModelFile",
    "ModelName",
    "ShippedEntry",
    "read_manifest",
    "read_model",
    "split_chain",
    "verify_recognizer",
]

ModelName = str | os.PathLike[str]

_FOLDERS = (
    Path(__file__).parent / "models",  # installed with the package
    Path(__file__).parent.parent / "models",  # a checkout
)
_SCHEMA = 1
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class ShippedEntry:
    """What the manifest says about one shipped file; all of it, for a recognizer.

    Attributes:
        name: The name that it goes by.
        path: The ONNX file.
        card: The model card beside it.
        sha256: Checksum of the file, hexadecimal.
        bytes: Size of the file.
        version: Version of the weights.
        training_data: The data sets that the weights were trained on.
        licence: What that allows.
    """

    name: str
    path: Path
    card: Path
    sha256: str
    bytes: int
    version: str
    training_data: tuple[str, ...]
    licence: str


@dataclass(frozen=True)
class ManifestEntry(ShippedEntry):
    """What the manifest says about one shipped purifier, which ``Purifier(name)`` takes.

    Attributes:
        method: The published method, such as ``"PIN"``.
        masks: The masks it can run with, its default first; empty without an antibody.
        score_threshold: Suspicion from which an image is called suspicious (1 % false alarms
            on held-out clean faces), or None where the model gives no calibrated score.
    """

    method: str
    masks: tuple[str, ...]
    score_threshold: float | None


@dataclass(frozen=True)
class Manifest:
    """The shipped models.

    Attributes:
        default: Name of the recommended model; empty where there is no model.
        models: The purifiers by name.
        recognizers: The recognizers to measure with, by name.
    """

    default: str
    models: dict[str, ManifestEntry]
    recognizers: dict[str, ShippedEntry]


@dataclass(frozen=True)
class ModelFile:
    """A model whose bytes were read once and checked.

    Attributes:
        name: Its name in the manifest, or the stem of its file.
        path: Where it was read.
        content: The bytes.
        sha256: Their checksum, hexadecimal.
        contract: What the file declares.
        entry: The manifest entry, None for a file of the caller's own.
    """

    name: str
    path: Path
    content: bytes
    sha256: str
    contract: ModelContract
    entry: ManifestEntry | None


def read_manifest(folder: Path | None = None) -> Manifest:
    """Read the manifest of the shipped models.

    Args:
        folder: The folder with ``manifest.json``; by default the one shipped with the package,
            or ``models/`` of a checkout.

    Returns:
        The manifest.

    Raises:
        ModelNotFoundError: There is no manifest.
        ModelContractError: It is malformed.
    """
    if folder is None:
        folder = next((f for f in _FOLDERS if (f / "manifest.json").is_file()), _FOLDERS[0])
    path = folder / "manifest.json"
    content = _read_bounded(path, _MAX_MANIFEST_BYTES, "the manifest of the shipped models")
    try:
        data = json.loads(content)
        if data["schema"] != _SCHEMA:
            raise ValueError(f"expected schema {_SCHEMA}, got {data['schema']!r}")
        models = {name: _entry(name, fields, folder) for name, fields in data["models"].items()}
        recognizers = {
            name: ShippedEntry(**_shipped(name, fields, folder))
            for name, fields in data.get("recognizers", {}).items()
        }
        if data["default"] not in (models or {""}):  # none where there are recognizers only
            raise ValueError(f"expected the default among the models, got {data['default']!r}")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,  # a number beyond every float
        RecursionError,  # thousands of brackets
    ) as error:
        raise ModelContractError(f"{path} is malformed: {error!r}; reinstall facepurify") from error
    return Manifest(data["default"], models, recognizers)


def read_model(model: str | os.PathLike[str] | None = None) -> ModelFile:
    """Find a model, read its bytes once and check them.

    Args:
        model: None for the recommended model, a name from the manifest, or a path to an
            ``.onnx`` file (a path object, or a string that ends in ``.onnx``).

    Returns:
        The checked model.

    Raises:
        ModelNotFoundError: No such name or file.
        ModelChecksumError: A shipped file differs from the manifest.
        ModelContractError: The file does not meet the ONNX contract of a purifier.
    """
    if isinstance(model, os.PathLike) or (isinstance(model, str) and model.endswith(".onnx")):
        path = Path(model).absolute()
        content = _read_bounded(path, MAX_BYTES, "a model")
        digest = hashlib.sha256(content).hexdigest()
        return ModelFile(path.stem, path, content, digest, read_contract(content), None)
    manifest = read_manifest()
    name = manifest.default if model is None else model
    if name not in manifest.models:
        raise ModelNotFoundError(
            f"expected one of the models {', '.join(manifest.models)}, "
            f"or a path that ends in .onnx, got {name!r}"
        )
    entry = manifest.models[name]
    content = _read_shipped(entry, f"the model {name}")
    contract = read_contract(content)
    if not set(entry.masks) <= set(contract.masks) or bool(entry.masks) != bool(contract.masks):
        raise ModelContractError(
            f"expected {entry.path} to have the masks {entry.masks} of its manifest, "
            f"got {contract.masks}"
        )
    return ModelFile(name, entry.path, content, entry.sha256, contract, entry)


def verify_recognizer(name: str) -> ShippedEntry:
    """Find a shipped recognizer and check the bytes of its file.

    Args:
        name: Of a recognizer in the manifest.

    Returns:
        Its entry.

    Raises:
        ModelNotFoundError: No such name or file.
        ModelChecksumError: The file differs from the manifest.
        ModelContractError: The file is larger than any model may be.
    """
    recognizers = read_manifest().recognizers
    if name not in recognizers:
        known = ", ".join(recognizers) or "(none)"
        raise ModelNotFoundError(f"expected one of the shipped recognizers {known}, got {name!r}")
    entry = recognizers[name]
    _read_shipped(entry, f"the recognizer {name}")
    return entry


def _read_shipped(entry: ShippedEntry, what: str) -> bytes:
    """Read a shipped file once, and check its bytes."""
    content = _read_bounded(entry.path, MAX_BYTES, what)
    digest = hashlib.sha256(content).hexdigest()
    if len(content) != entry.bytes or digest != entry.sha256:
        raise ModelChecksumError(
            f"expected {entry.path} to have {entry.bytes} bytes and sha256 {entry.sha256}, got "
            f"{len(content)} bytes and {digest}; the file was altered, reinstall facepurify"
        )
    return content


def split_chain(
    model: ModelName | Sequence[ModelName] | None,
) -> list[ModelName | None]:
    """Say which models run one after the other.

    Args:
        model: As for :class:`facepurify.Purifier`. A string is split at ``"+"``, unless a file
            of that name is there.

    Returns:
        What :func:`read_model` takes, at least one.

    Raises:
        OptionError: Nothing in a list, or in a place between two ``"+"``; or neither a name, a
            path, nor a list of them.

    Example:
        >>> split_chain("uddn+pin")
        ['uddn', 'pin']
    """
    if model is None or isinstance(model, os.PathLike):
        return [model]
    if isinstance(model, str):
        parts = [model] if "+" not in model or _is_file(model) else model.split("+")
        if not all(parts):
            raise OptionError(f"expected a model, or several joined by +, got {model!r}")
        return list(parts)
    if not isinstance(model, list | tuple):
        raise OptionError(
            f"expected a model's name, a path, or a list of them, got {type(model).__name__}"
        )
    if not model:
        raise OptionError("expected at least one model in the list, got none")
    return [each for name in model for each in split_chain(name)]


def _is_file(name: str) -> bool:
    """Tell whether there is a file of that name; one that is too long has none."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def _entry(name: str, fields: dict[str, Any], folder: Path) -> ManifestEntry:
    """Read one purifier of the manifest; whatever is wrong raises a built-in error."""
    threshold = fields["score_threshold"]
    if threshold is not None and not 0 < threshold <= 1:  # false for NaN too
        raise ValueError(f"expected a score threshold in (0, 1], got {threshold!r}")
    return ManifestEntry(
        **_shipped(name, fields, folder),
        method=str(fields["method"]),
        masks=tuple(str(mask) for mask in fields["masks"]),
        score_threshold=None if threshold is None else float(threshold),
    )


def _shipped(name: str, fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read what every entry of the manifest has."""
    for key in ("file", "card"):
        if Path(fields[key]).name != fields[key] or fields[key] in ("", ".."):
            raise ValueError(f"expected the plain name of a {key}, got {fields[key]!r}")
    return {
        "name": name,
        "path": folder / fields["file"],
        "card": folder / fields["card"],
        "sha256": str(fields["sha256"]),
        "bytes": int(fields["bytes"]),
        "version": str(fields["version"]),
        "training_data": tuple(str(data) for data in fields["training_data"]),
        "licence": str(fields["licence"]),
    }


def _read_bounded(path: Path, limit: int, what: str) -> bytes:
    """Read a file once, refusing to hold more than ``limit`` bytes of it."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            reason = "no regular file"  # opening a pipe would wait for its other end
        else:
            with path.open("rb") as file:
                content = file.read(limit + 1)
            reason = ""
    except OSError as error:
        reason = str(error.strerror)
    except ValueError as error:  # a null character in the path
        reason = str(error)
    if reason:
        raise ModelNotFoundError(
            f"expected {what} at {path}: {reason}; check the path, or reinstall facepurify"
        )
    if len(content) > limit:
        raise ModelContractError(f"expected {what} of at most {limit} bytes, {path} is larger")
    return content
