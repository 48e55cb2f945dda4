"""How real generated noise is: its spectrum, and what it does to an embedding."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from facepurify.bench.attacks.base import per_image
from facepurify.bench.recognizers import Recognizer
from facepurify.files import atomic_path, make_folder
from facepurify.train.attack_pack import AttackPack
from facepurify.train.corruption import add_noise
from facepurify.train.gnr import Gnr, real_noise, split

__all__ = ["radial_spectrum", "study_gnr"]

BINS = 28
Doubles = npt.NDArray[np.float64]


def radial_spectrum(noise: npt.NDArray[np.floating[Any]], bins: int = BINS) -> Doubles:
    """Shares of the power in rings of equal width, from the mean to the corner frequency.

    Args:
        noise: [N, C, S, S].
        bins: rings.

    Returns:
        float64 [bins], 1 together.

    >>> import numpy as np
    >>> radial_spectrum(np.ones((1, 3, 8, 8)), 4).tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    power = np.abs(np.fft.fft2(noise.astype(np.float64))) ** 2
    frequency = np.fft.fftfreq(noise.shape[-1])
    radius = np.hypot(frequency[:, None], frequency) / math.hypot(0.5, 0.5)
    ring = np.minimum((radius * bins).astype(int), bins - 1)
    shares = np.bincount(ring.ravel(), power.sum(axis=(0, 1)).ravel(), minlength=bins)
    result: Doubles = shares / shares.sum()
    return result


def study_gnr(
    net: Gnr,
    pack: AttackPack,
    guides: Sequence[Recognizer],
    folder: str | Path,
    *,
    count: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares noises on faces of the pack that GNR was not fitted on.

    Real noise on its own face, the same on other faces (what a generator that does not see the
    face can hope for), GNR's, and Gaussian noise as long as the real one.

    Args:
        net: the trained GNR.
        pack: what it was fitted on.
        guides: recognizers to see the shift with.
        folder: for ``gnr.json`` and ``gnr.png``.
        count: faces at most.
        seed: of GNR's and the Gaussian noise.

    Returns:
        What ``gnr.json`` holds: for each noise its spectrum, half the absolute difference of that
        to the real one's, and the mean 1 - cos between clean and noisy for each guide.
    """
    rows = split(pack)[1][:count]
    generator = torch.Generator().manual_seed(seed)
    clean, _ = pack.images(rows, mirrored=False)
    unit, strength = real_noise(pack, rows)
    real = unit * per_image(strength) / 255
    gaussian = torch.randn(real.shape, generator=generator)
    gaussian *= per_image(real.flatten(1).norm(dim=1) / gaussian.flatten(1).norm(dim=1))
    noises = {
        "real": real,
        "real, other faces": real.roll(1, dims=0),
        "GNR": net.sample(len(rows), strength, generator),
        "Gaussian": gaussian,
    }
    spectra = {name: radial_spectrum(noise.numpy()) for name, noise in noises.items()}
    report = {
        name: {
            "length": float(noise.flatten(1).norm(dim=1).mean()),
            "spectrum": spectra[name].tolist(),
            "spectral distance": float(np.abs(spectra[name] - spectra["real"]).sum() / 2),
            "shift": {guide.name: _shift(guide, clean, noise) for guide in guides},
        }
        for name, noise in noises.items()
    }
    folder = make_folder(folder)
    with atomic_path(folder / "gnr.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    with atomic_path(folder / "gnr.png") as temporary:
        _draw(report, temporary)
    return report


def _shift(guide: Recognizer, clean: Tensor, noise: Tensor) -> float:
    before, after = (guide.embed_numpy(x.numpy()) for x in (clean, add_noise(clean, noise)))
    return float(1 - (before * after).sum(axis=1).mean())


def _draw(report: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    spectrum, shift = figure.subplots(1, 2)
    guides = list(next(iter(report.values()))["shift"])
    for number, (name, row) in enumerate(report.items()):
        radius = (np.arange(len(row["spectrum"])) + 0.5) / len(row["spectrum"])
        spectrum.plot(radius, row["spectrum"], label=name)
        places = np.arange(len(guides)) + 0.2 * number
        shift.bar(places, list(row["shift"].values()), 0.2, label=name)
    spectrum.set_xlabel("spatial frequency, 1 at the corner")
    spectrum.set_ylabel("share of the power")
    spectrum.legend(fontsize=7)
    shift.set_xticks(np.arange(len(guides)) + 0.3, guides, fontsize=7)
    shift.set_ylabel("1 - cos to the clean face")
    figure.savefig(path, format="png", dpi=120)
