"""Eigenfaces in a truncated cosine basis: the immune space that PIN and AIS project onto.

A face of 112 x 112 has nearly all its energy in low frequencies, so the eigenfaces are computed
and kept over a set of 2-D DCT frequencies instead of over 12,544 pixels. The DCT is orthonormal:
eigenvalues, coefficients and distances are those of the pixels, up to the frequencies left out.
Luma and chroma (BT.601, full range) have eigenfaces of their own; Cb and Cr share theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from facepurify.errors import DataError, OptionError
from facepurify.files import atomic_path
from facepurify.images import SIZE
from facepurify.train.arrays import read_arrays

__all__ = [
    "RGB_TO_YCC",
    "Basis",
    "Block",
    "check_sizes",
    "dct_matrix",
    "fit_basis",
    "frequency_energy",
    "ycc_frequencies",
    "zone",
]

BLOCKS = ("luma_even", "luma_odd", "chroma_even", "chroma_odd")
RGB_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """Eigenfaces over one set of frequencies.

    Attributes:
        zone: int [F], flat indices into the 112 x 112 DCT plane, ascending.
        mean: [P * F], the mean face; P planes (1 for luma, 2 for chroma), one after the other.
        components: [P * F, K], orthonormal columns by falling eigenvalue.
        eigenvalues: [K], variance of each coefficient, pixels in [0, 1].
    """

    zone: npt.NDArray[np.int64]
    mean: Floats
    components: Floats
    eigenvalues: Floats

    def first(self, count: int) -> Block:
        """The same with the ``count`` leading eigenfaces only."""
        return Block(self.zone, self.mean, self.components[:, :count], self.eigenvalues[:count])


@dataclass(frozen=True)
class Basis:
    """Luma and chroma eigenfaces of a face set (PIN, arXiv 2207.06035, section III).

    A face is as likely as its mirror image. With every face counted both ways, the covariance of
    even and odd horizontal frequencies is exactly zero, so eigenfaces are either symmetric or
    antisymmetric, and a projection takes half the arithmetic and half the memory.

    Attributes:
        luma: the symmetric block, then the antisymmetric one.
        chroma: likewise, Cb and Cr together.
    """

    luma: tuple[Block, Block]
    chroma: tuple[Block, Block]

    def first(self, luma: int, chroma: int) -> Basis:
        """The same with the leading eigenfaces only, whatever their symmetry.

        Raises:
            DataError: there are not that many.
        """
        return Basis(_leading(self.luma, luma), _leading(self.chroma, chroma))

    def save(self, path: str | Path) -> None:
        """Writes an .npz of plain arrays; the components in half precision."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name, block in self._named():
            arrays[f"{name}_zone"] = block.zone.astype(np.int32)
            arrays[f"{name}_mean"] = block.mean
            arrays[f"{name}_components"] = block.components.astype(np.float16)
            arrays[f"{name}_eigenvalues"] = block.eigenvalues
        with atomic_path(path) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)

    @staticmethod
    def load(path: str | Path) -> Basis:
        """Reads what ``save`` wrote.

        Raises:
            DataError: the file is missing or is not such an .npz.
        """
        parts = ("zone", "mean", "components", "eigenvalues")
        names = tuple(f"{block}_{part}" for block in BLOCKS for part in parts)
        arrays = iter(read_arrays(path, names, "eigenfaces"))
        blocks = [
            Block(
                next(arrays).astype(np.int64),
                next(arrays),
                next(arrays).astype(np.float32),
                next(arrays),
            )
            for _ in BLOCKS
        ]
        return Basis((blocks[0], blocks[1]), (blocks[2], blocks[3]))

    def _named(self) -> Iterable[tuple[str, Block]]:
        return zip(BLOCKS, (*self.luma, *self.chroma), strict=True)


def _leading(pair: tuple[Block, Block], count: int) -> tuple[Block, Block]:
    values = np.concatenate([block.eigenvalues for block in pair])
    if not 0 < count <= len(values):
        raise DataError(
            f"expected 1 to {len(values)} eigenfaces, got {count}: fit the basis with more"
        )
    symmetric = int((np.argsort(-values, kind="stable")[:count] < len(pair[0].eigenvalues)).sum())
    return pair[0].first(symmetric), pair[1].first(count - symmetric)


def dct_matrix(size: int = SIZE) -> npt.NDArray[np.float64]:
    """The orthonormal DCT-II matrix [size, size]: ``D @ x`` are the frequencies of x.

    >>> import numpy as np
    >>> D = dct_matrix(8)
    >>> bool(np.allclose(D @ D.T, np.eye(8)))
    True
    """
    matrix: npt.NDArray[np.float64] = scipy.fft.dct(np.eye(size), axis=0, norm="ortho")
    return matrix


def ycc_frequencies(images: npt.NDArray[np.uint8]) -> Floats:
    """uint8 RGB [N, 112, 112, 3] to DCT planes [3, N, 12544] of Y, Cb, Cr (range 1)."""
    matrix = dct_matrix().astype(np.float32)
    ycc = np.einsum("cd,nhwd->cnhw", RGB_TO_YCC.astype(np.float32), images.astype(np.float32) / 255)
    planes: Floats = (matrix @ ycc @ matrix.T).reshape(3, len(images), -1)
    return planes


def zone(energy: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.int64]:
    """The ``count`` frequencies of most energy, ascending.

    >>> import numpy as np
    >>> zone(np.array([5.0, 1.0, 3.0, 2.0]), 2)
    array([0, 2])
    """
    return np.sort(np.argsort(-energy, kind="stable")[:count])


def check_sizes(**sizes: int) -> None:
    """Refuses numbers of eigenfaces and frequencies that make no basis.

    Raises:
        OptionError: one is below 1.
    """
    if wrong := ", ".join(f"{name} {size}" for name, size in sizes.items() if size < 1):
        raise OptionError(f"expected sizes of 1 or more, got {wrong}")


def fit_basis(
    batches: Iterable[npt.NDArray[np.uint8]],
    energy: Floats,
    *,
    luma: int,
    chroma: int,
    luma_zone: int,
    chroma_zone: int,
) -> Basis:
    """Exact principal components of any number of faces, in one pass and constant memory.

    Only the covariance (``luma_zone`` squared numbers) is kept, so a set larger than memory works.

    Args:
        batches: uint8 [n, 112, 112, 3] RGB arrays.
        energy: [3, 12544] variance of each DCT frequency (``frequency_energy``).
        luma: how many luma eigenfaces to keep.
        chroma: how many chroma eigenfaces to keep.
        luma_zone: how many luma frequencies they live on.
        chroma_zone: how many frequencies of Cb, and as many of Cr.

    Raises:
        OptionError: a number of eigenfaces or frequencies below 1.
        DataError: no faces, or fewer than eigenfaces asked for.
    """
    check_sizes(luma=luma, chroma=chroma, luma_zone=luma_zone, chroma_zone=chroma_zone)
    zones = [
        kept[kept % SIZE % 2 == odd]
        for kept in (zone(energy[0], luma_zone), zone(energy[1] + energy[2], chroma_zone))
        for odd in (0, 1)
    ]
    sizes = [len(zones[0]), len(zones[1]), 2 * len(zones[2]), 2 * len(zones[3])]
    sums = [np.zeros(size) for size in sizes]
    products = [np.zeros((size, size)) for size in sizes]
    count = 0
    for images in batches:
        planes = ycc_frequencies(images)
        count += len(images)
        for number, at in enumerate(zones):
            rows = planes[0][:, at] if number < 2 else np.hstack(list(planes[1:, :, at]))
            sums[number] += rows.sum(axis=0, dtype=np.float64)
            products[number] += rows.T @ rows
    if count <= max(luma, chroma):
        raise DataError(
            f"expected more faces than eigenfaces ({max(luma, chroma)}), got {count}: "
            "give more faces or ask for fewer eigenfaces"
        )
    blocks = []
    for number, (at, total, product) in enumerate(zip(zones, sums, products, strict=True)):
        # Mirrored, the odd horizontal frequencies change sign: their mean over both ways is zero.
        mean = total / count * (number % 2 == 0)
        covariance = product / count - np.outer(mean, mean)
        last = len(product) - 1
        keep = min(luma if number < 2 else chroma, len(product))
        values, vectors = scipy.linalg.eigh(covariance, subset_by_index=[last + 1 - keep, last])
        blocks.append(
            Block(
                at,
                mean.astype(np.float32),
                np.ascontiguousarray(vectors[:, ::-1]).astype(np.float32),
                values[::-1].astype(np.float32),
            )
        )
    basis = Basis((blocks[0], blocks[1]), (blocks[2], blocks[3]))
    return basis.first(luma, chroma)


def frequency_energy(batches: Iterable[npt.NDArray[np.uint8]]) -> Floats:
    """Variance [3, 12544] of every DCT frequency of Y, Cb and Cr over the faces."""
    count, total, square = 0, np.zeros((3, SIZE * SIZE)), np.zeros((3, SIZE * SIZE))
    for images in batches:
        planes = ycc_frequencies(images)
        count += len(images)
        total += planes.sum(axis=1, dtype=np.float64)
        square += (planes.astype(np.float64) ** 2).sum(axis=1)
    if not count:
        raise DataError("expected at least one face, got none")
    return (square / count - (total / count) ** 2).astype(np.float32)
