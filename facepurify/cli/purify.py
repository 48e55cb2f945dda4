"""``python -m facepurify purify``: purify the faces of image files."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from ..errors import FacePurifyError, NoFaceError, OutputError
from ..files import atomic_path
from ..imagefiles import read_image, write_image
from ..purifier import Purifier
from .finding import FaceFinder, locate
from .jobs import Job, check_target, plan
from .options import add_face_options, add_purifier_options, finder_of, purifier_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IN", help="image files (jpg, png, webp) or folders"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT",
        help="folder for the results; for a single image also a file name",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that exist, the inputs included"
    )
    parser.add_argument(
        "--keep-faceless",
        action="store_true",
        help="copy photos in which no face was found, instead of counting them as failed",
    )
    parser.add_argument("--seed", type=int, help="makes a sampled mask repeatable")
    add_face_options(parser)
    add_purifier_options(parser)


def run(args: argparse.Namespace) -> int:
    """Purify every image; one that fails does not stop the rest.

    Returns:
        The exit status: 1 if any image failed.
    """
    from tqdm import tqdm

    jobs = plan(args.inputs, args.output)
    sources = {job.source for job in jobs}
    purifier, finder = purifier_of(args), finder_of(args)
    failures: list[tuple[Path, FacePurifyError]] = []
    faces = copied = replaced = 0
    for job in tqdm(jobs, unit="image", disable=None):
        try:
            in_place = check_target(job, sources, args.overwrite)
            try:
                faces += _purify_file(job, purifier, finder, args.seed)
            except NoFaceError:
                if not args.keep_faceless:
                    raise
                _copy(job)
                copied += 1
            else:
                replaced += in_place
        except FacePurifyError as error:
            failures.append((job.source, error))
    done = len(jobs) - len(failures) - copied
    print(f"purified {faces} face(s) in {done} of {len(jobs)} image(s) with {purifier.info.name}")
    if copied:
        print(f"copied {copied} image(s) without a face as they are")
    if replaced:
        print(f"replaced {replaced} input file(s)")
    if failures:
        print(f"{len(failures)} image(s) failed, nothing was written for them:", file=sys.stderr)
        for source, reason in failures:
            named = str(source) in str(reason)
            print(f"  {reason}" if named else f"  {source}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def _purify_file(job: Job, purifier: Purifier, finder: FaceFinder | None, seed: int | None) -> int:
    """Purify one file and return the number of its faces."""
    image = read_image(job.source)
    landmarks = locate(image.pixels, finder)
    purified = purifier.purify(image.pixels, landmarks=landmarks, seed=seed)
    _make_folder(job.target.parent)
    write_image(job.target, purified, alpha=image.alpha, lossless=image.lossless)
    return 1 if landmarks is None else len(landmarks)


def _copy(job: Job) -> None:
    """Copy a file as it is; over itself there is nothing to do."""
    if job.target.exists() and job.target.samefile(job.source):
        return
    _make_folder(job.target.parent)
    try:
        with atomic_path(job.target) as temporary:
            shutil.copyfile(job.source, temporary)
    except OSError as error:
        raise OutputError(f"could not copy to {job.target}: {error}") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"could not make the folder {folder}: {error.strerror}") from error
