"""How much the truncated, half-precision eigenfaces lose against the full float64 ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from facepurify.errors import OptionError
from facepurify.files import atomic_path, make_folder
from facepurify.images import SIZE
from facepurify.train.basis import RGB_TO_YCC, Basis, dct_matrix
from facepurify.train.faces import FaceSet

__all__ = ["check_study", "full_basis", "luma_eigenfaces", "study_basis"]

COUNTS = (100, 200, 400, 600, 800, 1000, 1200, 1500)
PIXELS = SIZE * SIZE
OVERSAMPLING, POWER_ITERATIONS = 100, 4
Doubles = npt.NDArray[np.float64]


def full_basis(faces: FaceSet, count: int) -> tuple[Doubles, Doubles]:
    """The reference: mean [12544] and eigenfaces [12544, count] of the luma, every pixel, float64.

    Nothing is truncated, mirrored or rounded. By randomised SVD with power iterations (Halko et
    al., arXiv 0909.4061), all faces in memory: 2 GB for 20,000.
    """
    rows = _luma(faces.images[faces.training])
    mean: Doubles = rows.mean(axis=0)
    rows -= mean
    spare = min(count + OVERSAMPLING, *rows.shape)
    vectors = torch.svd_lowrank(torch.from_numpy(rows), q=spare, niter=POWER_ITERATIONS)[2]
    eigenfaces: Doubles = vectors[:, :count].numpy()
    return mean, eigenfaces


def luma_eigenfaces(basis: Basis, count: int) -> tuple[Doubles, Doubles]:
    """The shipped eigenfaces as pixels: mean [12544] and eigenfaces [12544, count]."""
    matrix = dct_matrix()
    columns, mean = [], np.zeros((SIZE, SIZE))
    for block in basis.first(count, 1).luma:
        plane = np.zeros((PIXELS, len(block.eigenvalues)))
        plane[block.zone] = block.components
        images = np.einsum(
            "fh,fgk,gw->hwk", matrix, plane.reshape(SIZE, SIZE, -1), matrix, optimize=True
        )
        columns.append(images.reshape(PIXELS, -1))
        centre = np.zeros(PIXELS)
        centre[block.zone] = block.mean
        mean += matrix.T @ centre.reshape(SIZE, SIZE) @ matrix
    values = np.concatenate([block.eigenvalues for block in basis.first(count, 1).luma])
    return mean.ravel(), np.hstack(columns)[:, np.argsort(-values, kind="stable")]


def check_study(luma: int, faces: FaceSet) -> None:
    """Sees to it that there is something to study, before eigenfaces are fitted.

    Args:
        luma: how many luma eigenfaces there will be.
        faces: to study them with.

    Raises:
        OptionError: fewer eigenfaces than the least that are compared.
        DataError: no face is held out.
    """
    if luma < COUNTS[0]:
        raise OptionError(
            f"expected at least {COUNTS[0]} luma eigenfaces to study, got {luma}: raise --luma, or "
            "leave --study out"
        )
    faces.check_held_out()


def study_basis(basis: Basis, faces: FaceSet, folder: str | Path) -> None:
    """Writes ``basis.json`` and ``basis.png``: both bases on the held-out faces.

    For each K: the share of the held-out faces' luma variance that a projection keeps, and its
    root-mean-square error in grey levels.

    Raises:
        OptionError: fewer eigenfaces than the least that are compared.
        DataError: no face is held out.
    """
    luma = sum(len(block.eigenvalues) for block in basis.luma)
    check_study(luma, faces)
    folder = make_folder(folder)
    counts = [count for count in COUNTS if count <= luma]
    held_out = _luma(faces.images[faces.validation])
    rows = {
        "full, float64": _losses(*full_basis(faces, counts[-1]), held_out, counts),
        "shipped": _losses(*luma_eigenfaces(basis, counts[-1]), held_out, counts),
    }
    with atomic_path(folder / "basis.json") as temporary:
        temporary.write_text(json.dumps({"eigenfaces": counts, **rows}, indent=1))
    with atomic_path(folder / "basis.png") as temporary:
        _draw(counts, rows, temporary)


def _luma(images: npt.NDArray[np.uint8]) -> Doubles:
    luma: Doubles = (images / 255.0) @ RGB_TO_YCC[0]
    return luma.reshape(len(images), PIXELS)


def _losses(
    mean: Doubles, eigenfaces: Doubles, faces: Doubles, counts: list[int]
) -> dict[str, list[float]]:
    centred = faces - mean
    coefficients = centred @ eigenfaces
    variance = float((faces - faces.mean(axis=0)).var(axis=0).sum())
    lost = [
        float(
            ((centred - coefficients[:, :count] @ eigenfaces[:, :count].T) ** 2).sum(axis=1).mean()
        )
        for count in counts
    ]
    return {
        "energy kept": [1 - value / variance for value in lost],
        "error, grey levels": [255 * float(np.sqrt(value / PIXELS)) for value in lost],
    }


def _draw(counts: list[int], rows: dict[str, dict[str, list[float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axis, what in zip(
        figure.subplots(1, 2), ("energy kept", "error, grey levels"), strict=True
    ):
        for (name, row), style in zip(rows.items(), ("o-", "x--"), strict=True):
            axis.plot(counts, row[what], style, label=name)
        axis.set_xlabel("luma eigenfaces")
        axis.set_ylabel(what)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, format="png", dpi=110)
