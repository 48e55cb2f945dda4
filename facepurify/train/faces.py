"""Training faces: folders of aligned 112 x 112 crops as one memory-mapped array."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from facepurify.errors import DataError
from facepurify.files import atomic_path, make_folder
from facepurify.imagefiles import SUFFIXES
from facepurify.images import SIZE

__all__ = ["FaceSet", "as_batch", "black_fraction", "load_faces"]

# A crop that was warped from a tight photo has black wedges where the photo ended. Their hard
# edges are not faces: they would lead the basis and teach the selector a border that no camera has.
MAX_BLACK = 0.10
HELD_OUT_TENTH = 0


@dataclass(frozen=True)
class FaceSet:
    """Faces in one array that need not fit in memory.

    Attributes:
        images: uint8 [N, 112, 112, 3], RGB, memory-mapped.
        names: N paths, relative to the folder that they were found in.
        held_out: bool [N], the tenth kept for choices; all images of one folder, which is taken for
            one identity, fall together.
        skipped: how many images were left out, by reason.
        digest: of the names and the pixels: other faces, another digest.
    """

    images: npt.NDArray[np.uint8]
    names: tuple[str, ...]
    held_out: npt.NDArray[np.bool_]
    skipped: dict[str, int]
    digest: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def training(self) -> npt.NDArray[np.intp]:
        """Indices of the faces to fit on."""
        return np.flatnonzero(~self.held_out)

    @property
    def validation(self) -> npt.NDArray[np.intp]:
        """Indices of the faces to choose on."""
        return np.flatnonzero(self.held_out)

    def check_held_out(self) -> None:
        """Sees to it that something can be measured.

        Raises:
            DataError: no face is held out.
        """
        if not self.held_out.any():
            raise DataError(
                f"expected faces of which some are held out, got {len(self)} without one: give more"
            )

    def identity(self, index: int) -> str:
        """The folder that holds the image: its identity where the set has identities."""
        return str(Path(self.names[index]).parent)

    def source(self, index: int) -> str:
        """The set that the image is of: the last name of the folder that was given."""
        return Path(self.names[index]).parts[0]

    def summary(self) -> str:
        """How many faces and identities there are, in a line to be read before a long run."""
        labels = self.labels()
        sizes = np.unique(labels[labels >= 0], return_counts=True)[1]
        known = f"{len(sizes)} identities" + (
            f" of up to {sizes.max()} faces" if len(sizes) else ""
        )
        left_out = ", ".join(f"{count} {why}" for why, count in self.skipped.items())
        return (
            f"{len(self)} faces, {len(self.validation)} of them held out; {known}; "
            f"left out: {left_out}"
        )

    def labels(self) -> npt.NDArray[np.int64]:
        """[N], a number for each identity that has a folder of its own below its set; else -1."""
        known = [
            self.identity(i) if len(Path(n).parts) > 2 else "" for i, n in enumerate(self.names)
        ]
        number = {name: i for i, name in enumerate(sorted(set(known) - {""}))}
        return np.array([number.get(name, -1) for name in known], np.int64)

    def batches(
        self, indices: npt.NDArray[np.intp], size: int = 500
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Yields uint8 [n, 112, 112, 3] RGB, n <= size, in the order of ``indices``."""
        for start in range(0, len(indices), size):
            yield self.images[indices[start : start + size]]


def as_batch(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 [N, 112, 112, 3] to float32 [N, 3, 112, 112] in [0, 1], as purifiers take it.

    >>> as_batch(np.full((2, 112, 112, 3), 255, np.uint8)).shape
    (2, 3, 112, 112)
    """
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def black_fraction(image: npt.NDArray[np.uint8]) -> float:
    """Share of pixels, 0 to 1, that are black up to JPEG noise (no channel above 6 of 255).

    >>> import numpy as np
    >>> half = np.zeros((112, 112, 3), np.uint8); half[:56] = 200
    >>> black_fraction(half)
    0.5
    """
    return float((image.max(axis=-1) <= 6).mean())


def load_faces(
    folders: Sequence[str | Path], cache: str | Path, *, max_black: float = MAX_BLACK
) -> FaceSet:
    """Reads every image below ``folders`` once and keeps the pixels in ``cache`` for later runs.

    Args:
        folders: where aligned crops lie, at any depth. Identities and what is held out go by
            their last names, which must differ. A folder that holds nothing but another one, as
            an unpacked archive may, is looked through: that other one is no identity.
        cache: a folder for the packed array; a later call with the same files, by names, sizes
            and times, uses it as it is.
        max_black: crops with a larger black share are left out (counted in ``skipped``).

    Raises:
        DataError: a folder is missing, two have one name, no image is usable, or an image is not
            112 x 112.
    """
    found: list[tuple[Path, str]] = []
    named: dict[str, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DataError(f"expected a folder of face images, got {folder}: it does not exist")
        name = folder.absolute().name  # that of "." too
        if name in named:
            raise DataError(
                f"expected folders of different names, got {named[name]} and {folder}: rename one"
            )
        named[name] = folder
        inner = _looked_through(folder)
        found += [
            (path, str(Path(name) / path.relative_to(inner)))
            for path in sorted(inner.rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
    if not found:
        raise DataError(
            f"no image ({', '.join(sorted(SUFFIXES))}) below {', '.join(map(str, folders))}"
        )
    key = hashlib.sha256(f"{max_black}".encode())
    for path, name in found:
        status = path.stat()
        key.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    cache = make_folder(cache)
    pixels = cache / f"faces-{key.hexdigest()[:16]}.raw"
    index = pixels.with_suffix(".json")
    if not (pixels.exists() and index.exists()):
        _pack(found, pixels, index, max_black)
    listing = json.loads(index.read_text())
    names = tuple(listing["names"])
    return FaceSet(
        images=np.memmap(pixels, np.uint8, "r", shape=(len(names), SIZE, SIZE, 3)),
        names=names,
        held_out=np.array([_held_out(name) for name in names]),
        skipped=listing["skipped"],
        digest=listing["digest"],
    )


def _looked_through(folder: Path) -> Path:
    while len(inside := list(itertools.islice(folder.iterdir(), 2))) == 1 and inside[0].is_dir():
        folder = inside[0]
    return folder


def _held_out(name: str) -> bool:
    # Identities are folders below the set's own; in a flat set each file stands alone.
    parts = Path(name).parts
    key = "/".join(parts[:-1]) if len(parts) > 2 else name
    return hashlib.sha256(key.encode()).digest()[0] % 10 == HELD_OUT_TENTH


def _pack(found: list[tuple[Path, str]], pixels: Path, index: Path, max_black: float) -> None:
    names: list[str] = []
    digest = hashlib.sha256()
    skipped = {"black": 0, "unreadable": 0}
    with atomic_path(pixels) as temporary, temporary.open("wb") as out:
        for path, name in tqdm(found, desc="reading faces", unit="face"):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                skipped["unreadable"] += 1
                continue
            if image.shape != (SIZE, SIZE, 3):
                raise DataError(
                    f"expected aligned crops of {SIZE} x {SIZE}, got {image.shape[1]} x "
                    f"{image.shape[0]} in {path}: align it first (facepurify.align)"
                )
            if black_fraction(np.asarray(image, np.uint8)) > max_black:
                skipped["black"] += 1
                continue
            content = image[..., ::-1].tobytes()
            out.write(content)
            names.append(name)
            digest.update(f"{name}\0".encode() + content)
        if not names:
            raise DataError(f"no usable face among {len(found)} images: {skipped}")
    with atomic_path(index) as temporary:
        listing = {"names": names, "skipped": skipped, "digest": digest.hexdigest()}
        temporary.write_text(json.dumps(listing))
