"""What a run leaves beside its results, so that it can be gone on with and looked into."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from ..errors import OptionError, OutputError
from ..files import atomic_path, make_folder, writing

__all__ = [
    "DONE",
    "FAILED",
    "RUN",
    "DoneList",
    "FailureList",
    "Made",
    "begin_run",
    "is_same",
    "state_of",
]

_Self = TypeVar("_Self", bound="_Lines")

RUN = "facepurify-run.json"
"""Name of the file that says what the results in a folder were made with."""

DONE = "facepurify-done.jsonl"
"""Name of the file that lists the results that were made."""

FAILED = "facepurify-failed.jsonl"
"""Name of the file that lists the images that failed."""


def begin_run(folder: Path, options: dict[str, Any], *, anew: bool) -> None:
    """Note what the results in a folder are made with, or hold it against what is noted.

    Whatever the folder's :class:`DoneList` says holds for its note only: both are begun together.

    Args:
        folder: The folder for the results; made if need be.
        options: Whatever the results depend on, as JSON has it.
        anew: Whether what is noted counts no more, since older results are to be replaced.

    Raises:
        OptionError: The results in the folder were made with other options.
        OutputError: The note cannot be read or written.
    """
    make_folder(folder)
    path = folder / RUN
    with writing(path):
        if anew:
            path.unlink(missing_ok=True)
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
            return
        # in this order, so that after a kill no list stands beside a note that it is not of
        (folder / DONE).unlink(missing_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(options, indent=1) + "\n", encoding="ascii")


class _Lines:
    """A file that is opened with its first line, and closed with the block.

    Nothing is buffered: what is there after a kill or on a full disk are whole lines but the last.
    """

    _file: Any = None

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, path: Path, mode: str, text: str) -> None:
        with writing(path):
            if self._file is None:
                self._file = path.open(mode, buffering=0)
            if self._file.write(text.encode("ascii")) < len(text):
                raise OutputError(f"could not write {path}: no space is left")


class Made(NamedTuple):
    """What an earlier run made of an image.

    Attributes:
        sha256: Of the result.
        state: Of the source when it was read, as :func:`state_of` tells it.
    """

    sha256: str
    state: str


class DoneList(_Lines):
    """The results that were made, one JSON object a line, each written before it is put in place.

    A line has the ``source`` and its ``state`` when it was read, the ``result`` (below the folder)
    and the ``sha256`` of what the run made of it. So a result is known by its content: whatever
    else came to its place, and whenever the run was killed. Several processes may write to one
    list.

    Args:
        folder: The folder for the results; None to write none. Pickles as long as nothing was
            added.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def add(self, source: Path, state: str, result: Path, content: bytes) -> None:
        """Write one line.

        Raises:
            OutputError: It cannot be written.
        """
        if self._folder is None:
            return
        line = {
            "source": str(source),
            "state": state,
            "result": str(result.relative_to(self._folder)),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        # The newline comes first, and so ends what a full disk may have cut short.
        self._write(self._folder / DONE, "ab", f"\n{json.dumps(line)}")

    def made(self, root: Path) -> dict[str, Made]:
        """Read what was made of the sources below a folder, in their places.

        Args:
            root: The folder that the results mirror.

        Returns:
            What was made of each source. Lines that are none are passed over.

        Raises:
            OutputError: The list cannot be read.
        """
        if self._folder is None:
            return {}
        found: dict[str, Made] = {}
        path = self._folder / DONE
        try:
            with path.open("rb") as lines:
                for text in lines:
                    line = _object(text)
                    source, state, result, digest = (
                        str(line.get(key)) for key in ("source", "state", "result", "sha256")
                    )
                    if source == os.path.join(root, result):  # noqa: PTH118 (much faster)
                        found[source] = Made(digest, state)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise OutputError(f"could not read {path}: {error.strerror}") from error
        return found


def is_same(path: Path, sha256: str) -> bool:
    """Tell whether a file has some content, by its SHA-256.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == sha256


def state_of(path: Path) -> str:
    """Tell a file from what comes to its place later, by size and time of the last change."""
    try:
        status = path.stat()
    except OSError:
        return "not there"
    return f"{status.st_size} bytes at {status.st_mtime_ns} ns"


class FailureList(_Lines):
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
        if self._file is None:
            make_folder(self.path.parent)
        self._write(self.path, "wb", json.dumps(line) + "\n")


def _read(path: Path) -> dict[str, Any]:
    noted = _object(path.read_bytes())
    if not noted:
        raise OutputError(f"expected a JSON object in {path}; remove it, and the results with it")
    return noted


def _object(text: bytes) -> dict[str, Any]:
    """Read a JSON object; an empty one for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
