"""Writing files so that a reader sees the old one or the whole new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

__all__ = ["atomic_path"]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block succeeds.

    The temporary name keeps the suffix, since writers choose the format by it. If the block
    raises, the temporary file is removed, ``path`` stays as it was and the error goes on.

    Args:
        path: The file to write. Its folder must exist; an older file is replaced.

    Yields:
        The path to write to, in the same folder.

    Raises:
        OutputError: The folder does not exist, or the file could not be put in place (the
            block wrote nothing, or ``path`` is a folder).

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("purified")
        >>> target.read_text()
        'purified'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise OutputError(f"expected a folder to write {target.name} into, got {target.parent}")
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(8)}{target.suffix}")
    try:
        yield temporary
        try:
            temporary.replace(target)
        except OSError as error:
            raise OutputError(f"could not put {target} in place: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
