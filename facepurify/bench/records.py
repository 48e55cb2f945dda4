"""Dataclasses of measured figures as JSON: written whole, and every field checked when read."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from facepurify.errors import DataError, OutputError
from facepurify.files import atomic_path

__all__ = ["read_record", "write_record"]

Record = TypeVar("Record")


def write_record(record: Any, path: Path) -> None:
    """Write a dataclass of numbers, text, tuples and further such dataclasses as JSON.

    Raises:
        OutputError: If the file cannot be written.
    """
    text = json.dumps(dataclasses.asdict(record), indent=1, allow_nan=False) + "\n"
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(f"expected to write {path}: {error}") from error


def read_record(kind: type[Record], schema: int, path: Path) -> Record:
    """Read what :func:`write_record` wrote, checking every field.

    Args:
        kind: The dataclass, with a field ``schema``.
        schema: What that field must hold.
        path: The file.

    Raises:
        DataError: If the file is missing, is no JSON, or is of another schema.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected results as JSON, cannot read {path}: {error}") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise DataError(f"expected results of schema {schema}, got {found!r} in {path}")
    record: Record = _decode(kind, content, path.name)
    return record


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Return ``value``, from JSON, as the annotated type ``kind``, or say where it is not."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        if set(value) != set(hints):
            wrong = ", ".join(sorted(set(value) ^ set(hints)))
            raise DataError(f"expected other fields in {where}: {wrong} missing or not known")
        fields = {name: _decode(hints[name], value[name], f"{where}.{name}") for name in hints}
        return kind(**fields)  # type: ignore[operator]
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _decode(arguments[1], v, f"{where}.{key}") for key, v in value.items()}
    if origin is types.UnionType:
        return None if value is None else _decode(arguments[0], value, where)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise DataError(f"expected {getattr(kind, '__name__', kind)} in {where}, got {value!r:.60}")
