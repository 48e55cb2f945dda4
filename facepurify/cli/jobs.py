"""Which files to read, and where each result goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import ImageFileError, OptionError, OutputError, OutputExistsError
from ..imagefiles import SUFFIXES

__all__ = ["Job", "check_free", "check_target", "plan"]


class Job(NamedTuple):
    """One image file to read and the file to write.

    Attributes:
        source: The image.
        target: Where its result goes.
    """

    source: Path
    target: Path


def plan(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Pair every image with its place in the output.

    One file may go to a file. Else ``output`` is a folder in which the images keep their places
    relative to the deepest folder that holds them all, so that equal names do not collide.

    Args:
        inputs: Image files, and folders to search for them, subfolders included.
        output: The folder for the results; for a single file also the name of the result.

    Returns:
        The jobs in the order of the inputs, each file once. Files inside ``output`` are left
        out of the search unless it is itself a folder to search.

    Raises:
        ImageFileError: An input that does not exist, or no image at all.
        OptionError: Inputs on several drives.
        OutputError: ``output`` names a file, but there are several images.
    """
    output = Path(os.path.abspath(output))
    roots, sources = [], []
    for given in inputs:
        path = Path(os.path.abspath(given))
        if path.is_dir():
            roots.append(path)
            sources += _images_in(path, without=None if path == output else output)
        elif path.exists():
            roots.append(path.parent)
            sources.append(path)
        else:
            raise ImageFileError(
                f"expected a file or a folder, got {given}; there is no such thing"
            )
    sources = list(dict.fromkeys(sources))
    if not sources:
        raise ImageFileError(f"expected images ({', '.join(SUFFIXES)}) in the folders, found none")
    if output.suffix.lower() in SUFFIXES and not output.is_dir():
        if len(inputs) != 1 or sources != [Path(os.path.abspath(inputs[0]))]:
            raise OutputError(f"expected a folder for the results, got the file name {output.name}")
        return [Job(sources[0], output)]
    if output.exists() and not output.is_dir():
        raise OutputError(f"expected a folder for the results, got the file {output}")
    try:
        root = os.path.commonpath(roots)
    except ValueError as error:
        raise OptionError("expected inputs on one drive; run the command for each drive") from error
    return [Job(source, output / source.relative_to(root)) for source in sources]


def check_target(job: Job, sources: set[Path], overwrite: bool) -> bool:
    """Make sure that writing a result destroys nothing that was not given up.

    Args:
        job: The image and where its result goes.
        sources: All images of this run.
        overwrite: Whether older files, the input itself included, may be replaced.

    Returns:
        Whether the result replaces the input.

    Raises:
        OutputExistsError: Something is there and ``overwrite`` is off, or it is another image
            of this run.
    """
    if not job.target.exists():
        return False
    if job.target.samefile(job.source):
        if not overwrite:
            raise OutputExistsError(
                f"expected another file than the input {job.target}; --overwrite replaces it"
            )
        return True
    if job.target in sources:
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
    """
    if path.exists() and not overwrite:
        raise OutputExistsError(f"expected a free name, {path} exists; --overwrite replaces it")


def _images_in(folder: Path, without: Path | None) -> list[Path]:
    """Find the image files below a folder, in alphabetical order, leaving out one subfolder."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not (without is not None and path.is_relative_to(without))
    )
