"""Writing files so that a reader sees the old one or the whole new one, never a part."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError

__all__ = ["atomic_path", "check_folder", "make_folder", "target_of", "writing"]

_LONGEST = 255  # bytes of a file name
_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{16}(\.[^.]*)?", re.DOTALL)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block succeeds.

    The temporary name keeps the suffix, since writers choose the format by it, and as much of
    the rest as fits. If the block raises, the temporary file is removed, ``path`` stays as it
    was and the error goes on.

    Args:
        path: The file to write. Its folder must exist; an older file is replaced, and hands on
            who may read it.

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
    target = check_folder(path)
    temporary = target.with_name(_temporary_name(target))
    try:
        yield temporary
        try:
            with suppress(FileNotFoundError):
                shutil.copymode(target, temporary)
            temporary.replace(target)
        except OSError as error:
            raise OutputError(f"could not put {target} in place: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is to be written, once its folder is there.

    Raises:
        OutputError: The folder does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise OutputError(f"expected a folder to write {target.name} into, got {target.parent}")
    return target


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, unless it is there; return its path.

    Raises:
        OutputError: It cannot be made, such as where a file has its name.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"could not make the folder {folder}: {error.strerror}") from error
    return folder


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make an error of ours of what the system says while a file is written.

    Raises:
        OutputError: The block raised an OSError; an OutputError goes on as it is.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"could not write {path}: {error.strerror}") from error


def target_of(name: str) -> str | None:
    """Tell which file a temporary one was to become, by their names.

    A process that is killed inside :func:`atomic_path` leaves its temporary file behind.

    Args:
        name: The name of any file, without its folder.

    Returns:
        The name of the file that it was to become, cut short where the temporary one would
        have been too long; None for a file that is not temporary.

    Example:
        >>> target_of(".face.0123456789abcdef.png"), target_of("face.png")
        ('face.png', None)
    """
    found = _TEMPORARY.fullmatch(name)
    return None if found is None else f"{found[1]}{found[2] or ''}"


def _temporary_name(target: Path) -> str:
    stem, token = target.stem, secrets.token_hex(8)
    while len(os.fsencode(name := f".{stem}.{token}{target.suffix}")) > _LONGEST and stem:
        stem = stem[:-1]  # by characters: half of one is no name on some systems
    return name
