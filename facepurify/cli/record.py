"""What a run leaves beside its results, so that it can be gone on with and looked into."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import OptionError, OutputError
from ..files import atomic_path

__all__ = ["FAILED", "RUN", "FailureList", "begin_run", "make_folder"]

RUN = "facepurify-run.json"
"""Name of the file that says what the results in a folder were made with."""

FAILED = "facepurify-failed.jsonl"
"""Name of the file that lists the images that failed."""


def begin_run(folder: Path, options: dict[str, Any], *, overwrite: bool, resume: bool) -> bool:
    """Note what the results in a folder are made with, or hold it against what is noted.

    Args:
        folder: The folder for the results; made if need be.
        options: Whatever the results depend on, as JSON has it.
        overwrite: Whether the run replaces older results. It leaves no note, since its results
            cannot be told from those that it has yet to replace.
        resume: Whether the run goes on with another one.

    Returns:
        Whether results that are there already were made with these options.

    Raises:
        OptionError: The results in the folder were made with other options.
        OutputError: The note cannot be read or written.
    """
    make_folder(folder)
    path = folder / RUN
    try:
        if overwrite:
            path.unlink(missing_ok=True)
            return False
        if path.exists():
            noted = _read(path)
            other = sorted(
                key for key in options.keys() | noted if options.get(key) != noted.get(key)
            )
            if other:
                raise OptionError(
                    f"expected the options that the results in {folder} were made with, got "
                    f"another {', '.join(other)}; see {path}, or choose another folder"
                )
            return resume
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(options, indent=1) + "\n", encoding="ascii")
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"could not write {path}: {error.strerror}") from error
    return False


class FailureList:
    """The images that failed, one JSON object a line, written as they fail.

    A line has the ``source``, the ``error`` (its class) and the ``message``. There is no file
    as long as nothing failed.

    Args:
        path: The file; None to write none. An older one is removed.

    Attributes:
        path: The file.

    Raises:
        OutputError: It cannot be removed.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: Any = None
        if path is not None:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"could not remove {path}: {error.strerror}") from error

    def add(self, source: Path, error: Exception) -> None:
        """Write one line.

        Raises:
            OutputError: It cannot be written.
        """
        if self.path is None:
            return
        line = {"source": str(source), "error": type(error).__name__, "message": str(error)}
        try:
            if self._file is None:
                make_folder(self.path.parent)
                self._file = self.path.open("w", encoding="ascii", buffering=1)
            self._file.write(json.dumps(line) + "\n")
        except OSError as reason:
            raise OutputError(f"could not write {self.path}: {reason.strerror}") from reason

    def __enter__(self) -> FailureList:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"could not make the folder {folder}: {error.strerror}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        noted = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        noted = None
    if not isinstance(noted, dict):
        raise OutputError(f"expected a JSON object in {path}; remove it, and the results with it")
    return noted
