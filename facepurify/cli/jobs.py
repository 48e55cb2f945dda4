"""Which files to read, and where each result goes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import (
    FacePurifyError,
    ImageFileError,
    OptionError,
    OutputError,
    OutputExistsError,
)
from ..files import target_of
from ..imagefiles import SUFFIXES, format_of
from .record import Made

__all__ = ["Job", "Plan", "check_free", "check_sheet", "check_target"]


class Job(NamedTuple):
    """One image file to read and the file to write.

    Attributes:
        source: The image.
        target: Where its result goes.
        made: What an earlier run made of it; None if none did.
        error: Why there is no image to read, such as for a folder that cannot be searched.
    """

    source: Path
    target: Path
    made: Made | None = None
    error: ImageFileError | None = None


class Plan:
    """Pairs every image with its place in the output, without a list of them all in memory.

    One file may go to a file. Else ``output`` is a folder in which the images keep their places
    relative to the deepest folder that holds them all, so that equal names do not collide.
    Iterating gives the jobs in the order of the inputs, each file once. Files inside ``output``
    are left out of the search unless it is itself a folder to search, and so are temporary
    files that a killed process left behind, and folders behind links. A subfolder that cannot
    be searched is a job with an error.

    Args:
        inputs: Image files, and folders to search for them, subfolders included.
        output: The folder for the results; for a single file also the name of the result.

    Attributes:
        folder: The folder for the results; None where one file goes to a file.
        root: The folder that it mirrors.

    Raises:
        ImageFileError: An input that does not exist or cannot be looked at, or no image at all.
        OptionError: Inputs on several drives.
        OutputError: ``output`` names a file, but there are several images.
    """

    def __init__(self, inputs: Sequence[Path], output: Path) -> None:
        for given in inputs:
            if not _exists(given, ImageFileError):
                raise ImageFileError(
                    f"expected a file or a folder, got {given}; there is no such thing"
                )
        there = _exists(output, OutputError)
        self._output = _absolute(output)
        paths = list(dict.fromkeys(map(_absolute, inputs)))
        self._folders = {path for path in paths if path.is_dir()}
        self._searched = {path.resolve() for path in self._folders}
        self._inputs = [path for path in paths if not self._is_searched(path)]
        self._files = {_place(path) for path in self._inputs if path not in self._folders}
        self.folder: Path | None = self._output
        if self._output.suffix.lower() in SUFFIXES and not self._output.is_dir():
            if self._folders or len(paths) != 1:
                raise OutputError(
                    f"expected a folder for the results, got the file name {self._output.name}"
                )
            self.folder = None
        elif there and not self._output.is_dir():
            raise OutputError(f"expected a folder for the results, got the file {self._output}")
        roots = [path if path in self._folders else path.parent for path in paths]
        try:
            self.root = Path(os.path.commonpath(roots))
        except ValueError as error:
            raise OptionError(
                "expected inputs on one drive; run the command for each drive"
            ) from error
        if next(iter(self), None) is None:
            raise ImageFileError(
                f"expected images ({', '.join(SUFFIXES)}) in the folders, found none"
            )

    def __iter__(self) -> Iterator[Job]:
        for path in self._inputs:
            if path in self._folders:
                yield from self._search(path)
            else:
                yield Job(path, self._target(path))

    def count(self) -> int:
        """Count the images."""
        return sum(1 for _ in self)

    def takes(self, path: Path) -> bool:
        """Tell whether an absolute path is one of the images to read."""
        if _place(path) in self._files:
            return True
        return (path.is_file() or _leads_nowhere(path)) and self._is_searched(path)

    def leftovers(self) -> Iterator[Path]:
        """Find the temporary files that a killed run left in the place of its results."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path, error in _files_in(self.folder):
            name = target_of(path.name)
            if name is not None and error is None:
                place = path.with_name(name).relative_to(self.folder)
                if self.takes(self.root / place):
                    yield path

    def _target(self, source: Path) -> Path:
        if self.folder is None:
            return self._output
        return self.folder / source.relative_to(self.root)

    def _search(self, folder: Path) -> Iterator[Job]:
        output = _status(self._output)
        if output is not None and _is_at(folder, output):
            output = None
        for path, error in _files_in(folder, output):
            if error is not None or _is_image(path.name):
                yield Job(path, self._target(path), error=error)

    def _is_searched(self, path: Path) -> bool:
        """Tell whether the search of another input comes across a file or a folder."""
        is_folder = path in self._folders
        if not (is_folder or _is_image(path.name)):
            return False
        output = self._output.resolve()
        above = _place(path)
        if is_folder and (path.is_symlink() or above == output):
            return False
        while above.parent != above:
            above = above.parent
            if above in self._searched:
                return True
            if above == output:
                return False
        return False


def check_target(job: Job, plan: Plan, overwrite: bool) -> bool:
    """Make sure that writing a result destroys nothing that was not given up.

    Args:
        job: The image and where its result goes.
        plan: All images of this run.
        overwrite: Whether older files, the input itself included, may be replaced.

    Returns:
        Whether the result replaces the input.

    Raises:
        OutputExistsError: Something is there and ``overwrite`` is off, or it is another image
            of this run, or the input is a link, which cannot be replaced.
    """
    if not job.target.exists():
        return False
    if job.target.samefile(job.source):
        if not overwrite:
            raise OutputExistsError(
                f"expected another file than the input {job.target}; --overwrite replaces it"
            )
        if job.target.is_symlink():  # what it leads to would stay as it is
            raise OutputExistsError(
                f"expected a file to replace, got the link {job.target}; give what it leads to"
            )
        return True
    if plan.takes(job.target):
        raise OutputExistsError(f"expected a free name, but {job.target} is another input")
    check_free(job.target, overwrite)
    return False


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file unless asked to.

    Args:
        path: The file to write.
        overwrite: Whether an older one may be replaced.

    Raises:
        OutputExistsError: Something is there and ``overwrite`` is off.
        OutputError: Nobody can tell, such as for a name that is too long.
    """
    if _exists(path, OutputError) and not overwrite:
        raise OutputExistsError(f"expected a free name, {path} exists; --overwrite replaces it")


def check_sheet(path: Path, overwrite: bool, source: Path | None = None) -> None:
    """Refuse what a picture sheet cannot be written to, before it is drawn.

    Args:
        path: The file to write.
        overwrite: Whether an older one may be replaced.
        source: The image that the sheet is of, which it never replaces.

    Raises:
        OutputExistsError: Something is there and ``overwrite`` is off, or it is ``source``.
        OutputError: No format for a sheet.
    """
    format_of(path)
    check_free(path, overwrite)
    status = _status(path)
    if source is not None and status is not None and _is_at(source, status):
        raise OutputExistsError(f"expected another file for the sheet than the image {source}")


def _exists(path: Path, error: type[FacePurifyError]) -> bool:
    """Tell whether there is something at a path; an error of ours if nobody can tell."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as reason:
        raise error(f"could not look at {path}: {reason.strerror}") from reason
    return True


def _absolute(path: Path) -> Path:
    """Make a path absolute; ``..`` after a link leads out of the folder behind it."""
    place = Path(path.absolute().anchor)
    for part in path.absolute().parts[1:]:
        if part == "..":
            place = (place.resolve() if place.is_symlink() else place).parent
        else:
            place /= part
    return place


def _place(path: Path) -> Path:
    """Say where something lies, whatever links lead there; a link itself stays one."""
    return path.parent.resolve() / path.name


def _is_at(path: Path, status: os.stat_result) -> bool:
    found = _status(path)
    return found is not None and os.path.samestat(found, status)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and target_of(name) is None


def _files_in(
    folder: Path, without: os.stat_result | None = None
) -> Iterator[tuple[Path, ImageFileError | None]]:
    """Walk the files below a folder in alphabetical order, leaving out one subfolder.

    A subfolder that cannot be searched comes with the reason.
    """
    open_folders = [iter(_entries(folder))]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
        elif entry.is_dir(follow_symlinks=False):
            path = Path(entry.path)
            if without is None or not _is_at(path, without):
                try:
                    open_folders.append(iter(_entries(path)))
                except ImageFileError as error:
                    yield path, error
        elif _is_file(entry):
            yield Path(entry.path), None


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether to read an entry; whoever reads it says why it cannot be.

    A link to nothing counts, such as one to content that was never fetched; a link to a folder
    does not, since it may lead back up.
    """
    try:
        return entry.is_file() or _leads_nowhere(Path(entry.path))
    except OSError:  # such as a link to itself
        return True


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ImageFileError(f"could not search {folder}: {error.strerror}") from error
