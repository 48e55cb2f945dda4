"""``python -m facepurify purify``: purify the faces of image files."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import FacePurifyError, ImageFileError, NoFaceError, OptionError, OutputError
from ..files import atomic_path, make_folder, writing
from ..imagefiles import DecodedImage, encode_image, format_of, is_whole, read_image
from ..runtime import CPU
from ..terminal import printable
from .finding import default_pack, locate
from .jobs import Job, Plan, check_target
from .options import (
    add_face_options,
    add_purifier_options,
    add_seed_option,
    finder_of,
    purifier_of,
)
from .pool import cores, map_processes
from .record import FAILED, DoneList, FailureList, Made, begin_run, is_same, state_of

__all__ = ["add_arguments", "run"]

_FEW = 64  # images up to which starting processes takes longer than the images
_SHOWN = 20  # failures on the screen
_NO_MEMORY = -4  # the code of an error of OpenCV


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
        "--resume",
        action="store_true",
        help="go on with a run that was stopped: keep its results, and try again what failed",
    )
    parser.add_argument(
        "--keep-faceless",
        action="store_true",
        help="copy photos in which no face was found, instead of counting them as failed",
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes; each needs memory for one image (default: one a core on the CPU, "
        f"one in all for up to {_FEW} images or another provider)",
    )
    add_seed_option(parser)
    add_face_options(parser)
    add_purifier_options(parser)


def run(args: argparse.Namespace) -> int:
    """Purify every image; one that fails does not stop the rest.

    Returns:
        The exit status: 1 if any image failed, 130 if the user stopped it.
    """
    from tqdm import tqdm

    plan = Plan(args.inputs, args.output)
    count = plan.count()
    workers = _workers(args, count)
    done = DoneList(plan.folder)
    worker = _Worker(args, plan, done)
    name = worker.purifier.info.name
    if worker.takes_crops and not args.aligned:
        print(
            "no model pack is here to find faces with: takes every image as an aligned face crop "
            "(--pack FOLDER names one; --aligned says that these are crops)"
        )
    tally = _Tally()
    made: dict[str, Made] = {}
    if plan.folder is not None:
        begin_run(plan.folder, worker.options(), anew=args.overwrite and not args.resume)
        if args.resume:
            made = done.made(plan.root)
            _remove(plan.leftovers())
    jobs = (job._replace(made=made.get(str(job.source))) for job in plan)
    with done, FailureList(None if plan.folder is None else plan.folder / FAILED) as failures:
        outcomes: Iterator[tuple[Job, _Outcome | FacePurifyError]]
        if workers == 1:
            outcomes = ((job, worker(job)) for job in jobs)
        else:
            make = functools.partial(_Worker, args, plan, done, threads=args.threads or 1)
            del worker
            outcomes = map_processes(make, jobs, workers)
        try:
            for job, outcome in tqdm(outcomes, total=count, unit="image", disable=None):
                if isinstance(outcome, FacePurifyError):
                    outcome = _Outcome(error=outcome)
                tally.add(job, outcome)
                if outcome.error is not None:
                    try:
                        failures.add(job.source, outcome.error)
                    except OutputError as error:  # such as of a full disk
                        tally.unlisted = error
        except KeyboardInterrupt:
            tally.report(count, name, failures.path)
            goes_on = "" if plan.folder is None else "; the same command with --resume goes on"
            print(f"stopped{goes_on}", file=sys.stderr)
            return 130
    tally.report(count, name, failures.path)
    return 1 if tally.failed else 0


class _Outcome(NamedTuple):
    """What became of one image.

    Attributes:
        faces: Faces that were purified.
        copied: Whether it was copied, for want of a face.
        kept: Whether its result was there already.
        replaced: Whether its result replaced it.
        error: Why it failed; None if it did not.
    """

    faces: int = 0
    copied: bool = False
    kept: bool = False
    replaced: bool = False
    error: FacePurifyError | None = None


class _Tally:
    """Counts the outcomes, and reports them."""

    def __init__(self) -> None:
        self.done = self.faces = self.copied = self.kept = self.replaced = self.failed = 0
        self.unlisted: OutputError | None = None
        self._shown: list[str] = []

    def add(self, job: Job, outcome: _Outcome) -> None:
        self.faces += outcome.faces
        self.copied += outcome.copied
        self.kept += outcome.kept
        self.replaced += outcome.replaced
        if outcome.error is None:
            self.done += not (outcome.copied or outcome.kept)
            return
        self.failed += 1
        if self.failed <= _SHOWN:
            reason = str(outcome.error)
            named = str(job.source) in reason
            self._shown.append(f"  {printable(reason if named else f'{job.source}: {reason}')}")

    def report(self, count: int, name: str, path: Path | None) -> None:
        print(f"purified {self.faces} face(s) in {self.done} of {count} image(s) with {name}")
        if self.kept:
            print(f"kept {self.kept} result(s) of an earlier run")
        if self.copied:
            print(f"copied {self.copied} image(s) without a face as they are")
        if self.replaced:
            print(f"replaced {self.replaced} input file(s)")
        if self.failed:
            if self.unlisted is not None:
                print(f"the failures are not all listed: {self.unlisted}", file=sys.stderr)
            elif path is not None:
                print(f"listed the failures in {path}")
            print(
                f"{self.failed} image(s) failed, nothing was written for them:",
                *self._shown,
                *([f"  and {self.failed - _SHOWN} more"] if self.failed > _SHOWN else []),
                sep="\n",
                file=sys.stderr,
            )


class _Worker:
    """Purifies one image file after the other.

    Args:
        args: The command's arguments.
        plan: All images of the run.
        done: Where its results are listed.
        threads: Threads within an operator, for a process that shares the cores with others;
            None for those of ``args``.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        plan: Plan,
        done: DoneList,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            args.threads = threads
            cv2.setNumThreads(threads)
        self._args = args
        self._plan = plan
        self._done = done
        self.purifier = purifier_of(args)
        self._finder = finder_of(args)

    @property
    def takes_crops(self) -> bool:
        """Whether every image counts as an aligned crop."""
        return self._finder is None

    def options(self) -> dict[str, Any]:
        """Name whatever the results depend on, as JSON has it."""
        args = self._args
        pack = None if args.aligned else args.pack or default_pack()
        return {
            "facepurify": __version__,
            "model": self.purifier.info.name,
            "sha256": self.purifier.info.sha256,
            "mask": args.mask or next(iter(self.purifier.info.masks), None),
            "budget": None if args.budget is None else list(args.budget),
            "seed": args.seed,
            "pack": None if pack is None else str(pack.absolute()),
        }

    def __call__(self, job: Job) -> _Outcome:
        """Purify one file; whatever is wrong with it comes back as the outcome's error."""
        if job.error is not None:
            return _Outcome(error=job.error)
        try:
            return self._purify(job)
        except FacePurifyError as error:
            return _Outcome(error=error)
        except OSError as error:  # such as a file that vanished in between
            reason = f"could not be looked at: {error}"
        except Exception as error:  # one image is not the end of the run
            if isinstance(error, MemoryError) or getattr(error, "code", None) == _NO_MEMORY:
                reason = "expected an image that fits into memory; scale it down"
            else:
                reason = f"could not be purified: {type(error).__name__}: {error}"
        return _Outcome(error=ImageFileError(f"{job.source}: {reason}"))

    def _purify(self, job: Job) -> _Outcome:
        state = state_of(job.source)
        redo = False
        if job.made is not None and job.target.exists():
            ours = is_same(job.target, job.made.sha256)
            if ours and (job.made.state == state or job.target.samefile(job.source)):
                return _Outcome(kept=True)
            redo = ours or not is_whole(job.target)
        in_place = check_target(job, self._plan, self._args.overwrite or redo)
        image = read_image(job.source)
        try:
            landmarks = locate(image.pixels, self._finder)
        except NoFaceError:
            if not self._args.keep_faceless:
                raise
            if format_of(job.target) != image.format:
                self._write(job, state, _encoded(image.pixels, image, job.target))
            elif not in_place:
                self._write(job, state, job.source.read_bytes())
            return _Outcome(copied=True)
        purified = self.purifier.purify(image.pixels, landmarks=landmarks, seed=self._args.seed)
        self._write(job, state, _encoded(purified, image, job.target))
        return _Outcome(1 if landmarks is None else len(landmarks), replaced=in_place)

    def _write(self, job: Job, state: str, content: bytes) -> None:
        """List a result, then put it in its place."""
        make_folder(job.target.parent)
        with writing(job.target), atomic_path(job.target) as temporary:
            temporary.write_bytes(content)
            self._done.add(job.source, state, job.target, content)


def _encoded(pixels: NDArray[np.uint8], image: DecodedImage, target: Path) -> bytes:
    """Encode pixels as their image was, in the format of the target."""
    return encode_image(pixels, format_of(target), alpha=image.alpha, lossless=image.lossless)


def _workers(args: argparse.Namespace, count: int) -> int:
    """Choose the number of processes."""
    if args.workers is not None:
        if args.workers < 1:
            raise OptionError(f"expected workers >= 1, got {args.workers}")
        return min(int(args.workers), count)
    elsewhere = any(provider != CPU for provider in args.providers or [])
    return 1 if count <= _FEW or elsewhere else min(cores(), count)


def _remove(paths: Iterator[Path]) -> None:
    """Remove what a killed run left half written."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"could not remove {path}: {error.strerror}") from error
