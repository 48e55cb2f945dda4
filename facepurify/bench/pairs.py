"""Verification pairs: which two faces are compared, and the pictures of those faces.

Four sources: a pairs file in LFW's format with a folder of faces, a folder with one subfolder for
each identity, insightface's ``.bin`` packs, and arrays in memory. Every face must already be an
aligned 112x112 crop: a benchmark that quietly squeezed unaligned photos would measure nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from facepurify.bench.attacks import Goal
from facepurify.bench.binpack import read_pack
from facepurify.bench.cache import digest
from facepurify.errors import DataError, ImageError, ImageFileError, OptionError, SeedError
from facepurify.imagefiles import SUFFIXES, read_image
from facepurify.imageheaders import read_header
from facepurify.images import SIZE

__all__ = ["Pairs", "attacked_pairs", "load_pairs", "read_bin", "read_identities", "read_lfw"]

FOLDS = 10
SAMPLED_PAIRS = 3000
MAX_FACES = 50_000

_Images = NDArray[np.uint8]
_Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Genuine and impostor pairs over one set of faces.

    In each pair the first is the probe, which an attacker may change, the second the gallery.

    Attributes:
        name: What the report calls the data.
        images: uint8 [M, 112, 112, 3], RGB.
        genuine: Indices into ``images`` of two faces of one person, [G, 2].
        impostor: Indices of faces of two persons, [I, 2].
        genuine_folds: Fold of each genuine pair, [G].
        impostor_folds: Fold of each impostor pair, [I].
    """

    name: str
    images: _Images
    genuine: _Indices
    impostor: _Indices
    genuine_folds: _Indices
    impostor_folds: _Indices

    @classmethod
    def from_arrays(
        cls,
        images: _Images,
        genuine: ArrayLike,
        impostor: ArrayLike,
        *,
        genuine_folds: ArrayLike | None = None,
        impostor_folds: ArrayLike | None = None,
        name: str = "arrays",
    ) -> Pairs:
        """Build pairs from arrays; folds not given are equal runs in the given order.

        Raises:
            DataError: If the arrays are no such thing.

        >>> faces = np.zeros((4, 112, 112, 3), np.uint8)
        >>> pairs = Pairs.from_arrays(faces, [[0, 1], [2, 3]], [[0, 2], [1, 3]])
        >>> pairs.genuine_folds.tolist()
        [0, 5]
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (SIZE, SIZE, 3):
            raise DataError(
                f"expected faces as uint8 [M, {SIZE}, {SIZE}, 3] in RGB, "
                f"got {images.dtype} {list(images.shape)}"
            )
        checked = [_indices(genuine, len(images), "genuine")]
        checked.append(_indices(impostor, len(images), "impostor"))
        folds = []
        for pairs, given in zip(checked, (genuine_folds, impostor_folds), strict=True):
            fold = _runs(len(pairs)) if given is None else np.asarray(given, dtype=np.int64)
            if fold.shape != (len(pairs),):
                raise DataError(f"expected {len(pairs)} folds, got shape {list(fold.shape)}")
            folds.append(fold)
        names = np.unique(np.concatenate(folds))
        if len(names) < 2:  # each fold's threshold comes from the others
            raise DataError(
                f"expected pairs in at least two folds, got all in fold {names[0]}: "
                "split them into more"
            )
        return cls(name, images, checked[0], checked[1], folds[0], folds[1])

    @property
    def sha256(self) -> str:
        """Hash of the pictures and of the pairs."""
        return digest(
            self.images, self.genuine, self.impostor, self.genuine_folds, self.impostor_folds
        )


def attacked_pairs(pairs: Pairs, limit: int, seed: int) -> dict[Goal, _Indices]:
    """Draw the pairs [N, 2] that are attacked: genuine ones to dodge, impostors to impersonate.

    Args:
        pairs: To draw from.
        limit: Pairs of each kind; a larger limit keeps a smaller one's and adds to them.
        seed: Of the draw.

    Raises:
        OptionError: If the limit is below 1.
        SeedError: If the seed is below 0.
    """
    if limit < 1:
        raise OptionError(f"expected a limit >= 1, got {limit}")
    if seed < 0:
        raise SeedError(f"expected a seed >= 0, got {seed}")
    kinds: dict[Goal, _Indices] = {"dodging": pairs.genuine, "impersonation": pairs.impostor}
    return {
        goal: kind[np.random.default_rng(seed).permutation(len(kind))[:limit]]
        for goal, kind in kinds.items()
    }


def load_pairs(data: Path, pairs_file: Path | None, *, seed: int) -> Pairs:
    """Load pairs from wherever they are: ``.bin``, LFW's format, or a folder of identities.

    Args:
        data: A ``.bin`` pack, or a folder of aligned faces.
        pairs_file: Pairs in LFW's format, or None for a folder of identities or a pack.
        seed: Draws the pairs of a folder of identities.

    Raises:
        DataError: If something is missing or not readable.
    """
    if not data.exists():
        raise DataError(f"expected a folder of aligned faces or a .bin pack, {data} does not exist")
    if data.is_file():
        if pairs_file is not None:
            raise DataError(f"expected no pairs file with the pack {data}: it holds its own pairs")
        return read_bin(data)
    return read_identities(data, seed=seed) if pairs_file is None else read_lfw(data, pairs_file)


def read_lfw(folder: Path, pairs_file: Path) -> Pairs:
    """Read pairs in LFW's format: ``name n m`` is genuine, ``name n other m`` an impostor pair.

    The first line holds the number of folds and of pairs of each kind in a fold. Face ``n`` of
    ``name`` is ``folder/name/name_000n`` with the suffix of any image format that is read.

    Raises:
        DataError: If a line is not of this format, or an image is missing or not readable.
    """
    try:
        lines = pairs_file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected a readable pairs file, got {pairs_file}: {error}") from error
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    header = rows[0][1] if rows else []
    if len(header) != 2 or not all(field.isdigit() and int(field) > 0 for field in header):
        raise DataError(
            f"expected '<folds> <pairs of each kind in a fold>' as the first line of {pairs_file}, "
            f"got {' '.join(header)!r}"
        )
    folds, size = map(int, header)
    if len(rows) - 1 != folds * size * 2:
        raise DataError(
            f"expected {folds * size * 2} pairs in {pairs_file} by its first line, "
            f"got {len(rows) - 1}"
        )
    paths: dict[Path, int] = {}
    genuine: list[tuple[int, int]] = []
    impostor: list[tuple[int, int]] = []
    for number, fields in rows[1:]:
        kind = genuine if len(fields) == 3 else impostor
        named = fields if len(fields) == 4 else [*fields[:2], fields[0], *fields[2:]]
        if len(named) != 4 or not (named[1].isdigit() and named[3].isdigit()):
            raise DataError(
                f"expected 'name n m' or 'name n other m' in line {number} of {pairs_file}, "
                f"got {' '.join(fields)!r}"
            )
        left, right = (
            paths.setdefault(_lfw_image(folder, name, int(face)), len(paths))
            for name, face in (named[:2], named[2:])
        )
        kind.append((left, right))
    return Pairs.from_arrays(
        _read_images(list(paths)),
        genuine,
        impostor,
        genuine_folds=np.arange(len(genuine)) // size,
        impostor_folds=np.arange(len(impostor)) // size,
        name=pairs_file.stem,
    )


def read_identities(folder: Path, *, seed: int, count: int = SAMPLED_PAIRS) -> Pairs:
    """Draw pairs from a folder with one subfolder of aligned faces for each identity.

    Identities are spread over ten folds, and both faces of a pair come from one fold, so that no
    person is in two folds.

    Args:
        folder: The folder; its subfolders are the identities.
        seed: Draws the pairs: the same seed and files give the same pairs.
        count: Pairs of each kind, fewer where the folder has no more.

    Raises:
        DataError: If there are too few identities or faces.
    """
    people = [
        files
        for person in sorted(path for path in folder.iterdir() if path.is_dir())
        if (files := sorted(p for p in person.iterdir() if p.suffix.lower() in SUFFIXES))
    ]
    if len(people) < 2 * 2 or sum(len(files) > 1 for files in people) < 2:
        raise DataError(
            f"expected a subfolder of faces for each of at least 4 identities in {folder}, two of "
            f"them with two faces, got {len(people)} subfolders with faces"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(people))
    folds = min(FOLDS, len(people) // 2)
    groups = [[people[index] for index in order[fold::folds]] for fold in range(folds)]
    kinds: list[list[tuple[int, Path, Path]]] = []
    for sample in (_same_person, _two_people):
        drawn = [
            (fold, left, right)
            for fold, group in enumerate(groups)
            for left, right in sample(group, -(-count // folds), rng)
        ]
        kinds.append(drawn[:count])
    paths = {
        path: index
        for index, path in enumerate(
            sorted({path for kind in kinds for _, *pair in kind for path in pair})
        )
    }
    (genuine, genuine_folds), (impostor, impostor_folds) = (
        ([(paths[a], paths[b]) for _, a, b in kind], [fold for fold, *_ in kind]) for kind in kinds
    )
    return Pairs.from_arrays(
        _read_images(list(paths)),
        genuine,
        impostor,
        genuine_folds=genuine_folds,
        impostor_folds=impostor_folds,
        name=folder.name,
    )


def read_bin(path: Path) -> Pairs:
    """Read insightface's ``.bin`` pack: encoded faces, two for each pair, and which are genuine.

    Raises:
        DataError: If the file is no such pack.
    """
    encoded, same = read_pack(path)
    images = _stack(
        [f"face {index} of {path}" for index in range(len(encoded))],
        lambda index: _decode(encoded[index]),
    )
    flags = np.array(same, dtype=bool)
    pairs = np.arange(len(encoded)).reshape(-1, 2)
    folds = _runs(len(flags))
    return Pairs.from_arrays(
        images,
        pairs[flags],
        pairs[~flags],
        genuine_folds=folds[flags],
        impostor_folds=folds[~flags],
        name=path.stem,
    )


def _same_person(
    group: Sequence[Sequence[Path]], count: int, rng: np.random.Generator
) -> Iterable[tuple[Path, Path]]:
    pairs = [pair for files in group for pair in itertools.combinations(files, 2)]
    chosen = rng.permutation(len(pairs))[:count]
    return [pairs[index] for index in chosen]


def _two_people(
    group: Sequence[Sequence[Path]], count: int, rng: np.random.Generator
) -> Iterable[tuple[Path, Path]]:
    faces = [(person, file) for person, files in enumerate(group) for file in files]
    possible = (len(faces) ** 2 - sum(len(files) ** 2 for files in group)) // 2
    drawn: dict[tuple[Path, Path], None] = {}
    while len(drawn) < min(count, possible):
        first, second = sorted(rng.integers(len(faces), size=2))
        (one, left), (other, right) = faces[first], faces[second]
        if one != other:
            drawn[left, right] = None
    return drawn


def _lfw_image(folder: Path, name: str, number: int) -> Path:
    stem = folder / name / f"{name}_{number:04d}"
    for suffix in SUFFIXES:
        if (path := stem.with_suffix(suffix)).is_file():
            return path
    raise DataError(f"expected the image {stem} with one of {', '.join(SUFFIXES)}, there is none")


def _read_images(paths: Sequence[Path]) -> _Images:
    return _stack([str(path) for path in paths], lambda index: read_image(paths[index]).pixels)


def _decode(encoded: bytes) -> NDArray[np.uint8]:
    header = read_header(encoded)
    if (header.width, header.height) != (SIZE, SIZE):  # before a bomb is decoded
        raise ImageFileError(f"expected {SIZE}x{SIZE}, got {header.width}x{header.height}")
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ImageFileError(f"expected a whole {header.format}, got a damaged one")
    return np.asarray(image, np.uint8)


def _stack(names: Sequence[str], read: Callable[[int], NDArray[np.uint8]]) -> _Images:
    """Collect the named faces, grey or BGR, as one RGB array, refusing every other size."""
    if len(names) > MAX_FACES:
        raise DataError(f"expected at most {MAX_FACES} faces to fit memory, got {len(names)}")
    images = np.empty((len(names), SIZE, SIZE, 3), np.uint8)
    for index in tqdm(range(len(names)), desc="reading faces", unit="face", leave=False):
        try:
            image = read(index)
        except ImageError as error:
            raise DataError(f"expected a readable face, got {names[index]}: {error}") from error
        if image.shape[:2] != (SIZE, SIZE):
            raise DataError(
                f"expected aligned {SIZE}x{SIZE} faces, {names[index]} is "
                f"{image.shape[1]}x{image.shape[0]}: align faces first with facepurify.align"
            )
        images[index] = image[..., None] if image.ndim == 2 else image[..., ::-1]
    return images


def _indices(pairs: ArrayLike, faces: int, kind: str) -> _Indices:
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0 or array.dtype.kind not in "iu":
        raise DataError(f"expected {kind} pairs as whole numbers [N, 2], N >= 1, got {array.shape}")
    if array.min() < 0 or array.max() >= faces:
        raise DataError(
            f"expected {kind} pairs to name faces 0 to {faces - 1}, "
            f"got {array.min()} to {array.max()}"
        )
    return array.astype(np.int64)


def _runs(count: int) -> _Indices:
    """Spread ``count`` pairs over the folds as equal runs."""
    return np.arange(count) * FOLDS // count
