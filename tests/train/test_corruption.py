"""Noise that is no attack, and which image gets which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from facepurify.bench.attacks.base import per_image
from facepurify.train.corruption import (
    add_noise,
    band_noise,
    corrupt,
    draw_strengths,
    gaussian_noise,
    sensor_noise,
    sort_out,
    square_noise,
)
from facepurify.train.delivery import as_file


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shares_are_kept_and_exclude_each_other() -> None:
    kinds = sort_out(2000, {"clean": 0.3, "noisy": 0.2}, generator())
    shares = {name: float(chosen.float().mean()) for name, chosen in kinds.items()}
    assert shares == pytest.approx({"clean": 0.3, "noisy": 0.2, "attacked": 0.5}, abs=0.04)
    assert bool((sum(chosen.int() for chosen in kinds.values()) == 1).all())


def test_band_noise_lies_in_one_band_of_full_strength() -> None:
    noise = band_noise(6, 32, generator())
    assert noise.shape == (6, 3, 32, 32)
    assert torch.allclose(noise.abs().flatten(1).amax(dim=1), torch.ones(6))
    power = np.abs(np.fft.fft2(noise.double().numpy())) ** 2
    frequency = np.fft.fftfreq(32)
    radius = np.hypot(frequency[:, None], frequency) / np.hypot(0.5, 0.5)
    spans = []
    for image in power:
        inside = radius[(image.sum(axis=0) > 1e-6 * image.sum())]
        spans.append((inside.min(), inside.max()))
        empty = (radius < inside.min()) | (radius > inside.max())
        assert image[:, empty].sum() < 1e-6 * image.sum()
    assert len({round(low, 2) for low, _ in spans}) > 2
    assert any(high - low < 0.8 for low, high in spans)


def test_square_noise_is_stripes_under_squares() -> None:
    noise = square_noise(40, 32, generator())
    assert noise.shape == (40, 3, 32, 32)
    assert torch.equal(noise.abs(), torch.ones_like(noise))
    # How many pixels are as the one below them, and as the one beside them.
    below, beside = ((noise == noise.roll(1, axis)).float().mean(dim=(1, 2, 3)) for axis in (2, 3))
    upright = below > beside
    assert 10 < int(upright.sum()) < 30
    along = torch.where(upright, below, beside)
    across = torch.where(upright, beside, below)
    assert float(along.min()) > 0.7  # stripes, and the squares' insides
    assert float(across.min()) < 0.6  # hardly a square in one
    assert float(across.max()) > 0.8  # many in another


def test_noise_arrives_as_a_file_delivers_it() -> None:
    seen = add_noise(torch.full((1, 3, 4, 4), 0.99), torch.full((1, 3, 4, 4), 0.1))
    assert torch.equal(seen, torch.ones_like(seen))
    seen = add_noise(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 1.3 / 255))
    assert torch.allclose(seen * 255, torch.ones_like(seen))
    strengths = draw_strengths(500, generator())
    assert (float(strengths.min()), float(strengths.max())) == (2.0, 12.0)


def test_the_gaussian_noise_is_the_published_one() -> None:
    clean = torch.rand((3, 3, 16, 16), generator=generator())
    noise = gaussian_noise(clean, generator()) * 2
    length = (clean * 2 - 1).flatten(1).norm(dim=1)
    assert torch.allclose(noise.flatten(1).norm(dim=1), 0.04 * length)


def test_a_cameras_noise_is_of_all_strengths_and_from_coloured_to_grey() -> None:
    noise = 255 * sensor_noise(torch.rand((400, 3, 32, 32), generator=generator()), generator())
    sigma = noise.flatten(1).std(dim=1)
    assert 0 <= float(sigma.min()) < 0.5
    assert 11.5 < float(sigma.max()) < 12.5
    assert float(sigma.mean()) == pytest.approx(6, abs=0.5)
    planes = noise.flatten(2) / per_image(sigma)[..., 0]
    together = (planes[:, 0] * planes[:, 1]).mean(dim=1)  # correlation of red and green
    assert float(together.min()) < 0.1
    assert float(together.max()) > 0.9
    assert float(together.mean()) == pytest.approx(0.5, abs=0.05)


def test_each_kind_is_corrupted_its_own_way() -> None:
    clean = torch.full((50, 3, 16, 16), 0.5)
    attacked = clean + 16 / 255
    names = ("clean", "noisy", "sensor", "band", "square", "generated")
    shares = dict(zip(names, (0.2, 0.1, 0.1, 0.1, 0.1, 0.2), strict=True))
    kinds = sort_out(50, shares, generator())

    def drawn(strength: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full((len(strength), 3, 16, 16), -0.25)

    seen = corrupt(clean, attacked, kinds, generator(), drawn)
    assert torch.equal(seen[kinds["clean"]], clean[kinds["clean"]])
    assert torch.equal(seen[kinds["attacked"]], attacked[kinds["attacked"]])
    assert torch.equal(seen[kinds["generated"]], as_file(clean - 0.25)[kinds["generated"]])
    noise = ((seen - clean).abs().flatten(1).amax(dim=1) * 255).round(decimals=3)
    assert bool((noise[kinds["noisy"]] > 0).all() and (noise[kinds["sensor"]] > 0).all())
    # 2 to 12 grey levels, each rounded to a whole one from a middle of 127.5
    for kind in ("band", "square"):
        assert bool((noise[kinds[kind]] >= 1.5).all() and (noise[kinds[kind]] <= 12.5).all())
    same = (seen - clean).abs().flatten(1).amin(dim=1) * 255
    assert bool((same[kinds["square"]] >= 1.5).all())  # every pixel, not a few


def test_a_kind_that_is_no_noise_stays_clean() -> None:
    clean = torch.rand((4, 3, 8, 8), generator=generator())
    kinds = {"attacked": torch.zeros(4, dtype=torch.bool), "rehearsed": torch.ones(4).bool()}
    assert torch.equal(corrupt(clean, clean + 1, kinds, generator()), clean)
