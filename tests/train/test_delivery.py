from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from facepurify.train.attack_pack import AttackPack
from facepurify.train.corruption import add_noise
from facepurify.train.delivery import as_file, recompress, recompress_some, resize, with_history


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def smooth() -> Tensor:
    """Four alike, without fine detail, [4, 3, 112, 112]."""
    rows, columns = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    wave = 0.5 + 0.4 * torch.sin(rows / 30) * torch.cos(columns / 40)
    return as_file(wave.expand(4, 3, 112, 112))


@pytest.fixture(scope="module")
def noisy(smooth: Tensor) -> Tensor:
    return add_noise(smooth, 0.1 * torch.randn(smooth.shape, generator=generator()))


def test_resizing_keeps_a_face_in_its_place(smooth: Tensor, noisy: Tensor) -> None:
    assert float((resize(smooth, generator()) - smooth).abs().max()) < 3 / 255
    resized = resize(noisy, generator())
    assert torch.equal(resized, as_file(resized))
    lost = (resized - noisy).abs().mean(dim=(1, 2, 3))
    assert float(lost.min()) > 1 / 255
    assert len({round(float(each), 4) for each in lost}) > 1  # each its own size
    spot = torch.zeros(8, 3, 112, 112)
    spot[:, 0, 40:44, 70:74] = 1  # of red: channels keep their places, and so do pixels
    moved = resize(spot, generator())
    assert float(moved[:, 1:].max()) == 0
    for axis, middle in ((2, 71.5), (1, 41.5)):
        mass = moved[:, 0].sum(dim=axis % 2 + 1)
        centre = (mass * torch.arange(112.0)).sum(dim=1) / mass.sum(dim=1)
        assert torch.allclose(centre, torch.full((8,), middle), atol=0.3)


def test_recompression_is_jpeg(smooth: Tensor, noisy: Tensor) -> None:
    assert float((recompress(smooth, generator()) - smooth).abs().mean()) < 2 / 255
    lost = (recompress(noisy, generator()) - noisy).abs().mean(dim=(1, 2, 3))
    assert float(lost.min()) > 1 / 255
    assert len({round(float(each), 4) for each in lost}) > 1  # each its own quality
    red = torch.zeros(1, 3, 112, 112)
    red[:, 0] = 1
    assert float((recompress(red, generator()) - red).abs().max()) < 0.02  # channels keep places


def test_most_files_are_well_stored_and_a_few_badly(
    smooth: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, qualities = cv2.imencode, []

    def noted(suffix: str, image: np.ndarray, options: list[int]) -> tuple[bool, np.ndarray]:
        qualities.append(options[1])
        return encode(suffix, image, options)

    monkeypatch.setattr(cv2, "imencode", noted)
    recompress(smooth[:1, :, :8, :8].repeat(1000, 1, 1, 1), generator())
    drawn = np.array(qualities)
    assert (drawn.min(), drawn.max()) == (15, 98)
    assert float(np.median(drawn)) == pytest.approx(77, abs=4)
    assert float((drawn < 60).mean()) == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_is_recompressed(noisy: Tensor, share: float) -> None:
    images = noisy.repeat(50, 1, 1, 1)
    kept = images.clone()
    changed = (recompress_some(images, share, generator()) != images).flatten(1).any(dim=1)
    assert float(changed.float().mean()) == pytest.approx(share, abs=0.1)
    assert torch.equal(images, kept)  # the caller's own are left alone


def test_faces_get_a_history_and_keep_their_attack(noisy: Tensor) -> None:
    clean = (0.2 + 0.6 * noisy).repeat(30, 1, 1, 1)
    sign = torch.where(torch.rand(clean.shape, generator=generator()) < 0.5, -1, 1)
    perturbation = sign * 8 / 255
    attacked = as_file(clean) + perturbation
    old, new = with_history(as_file(clean), attacked, generator())
    same = (old == as_file(clean)).flatten(1).all(dim=1)
    assert float(same.float().mean()) == pytest.approx(1 / 3, abs=0.15)
    assert torch.allclose(new - old, perturbation, atol=1e-6)  # far from black and white


def test_a_pack_draws_faces_of_mixed_histories(pack: AttackPack) -> None:
    count = 60
    batch = pack.draw(count, generator())
    again = pack.draw(count, generator())
    assert torch.equal(batch.clean, again.clean)
    clean, attacked = pack.images(batch.rows, mirrored=batch.mirrored)
    kept = (batch.clean == clean).flatten(1).all(dim=1)
    assert 0 < int(kept.sum()) < count
    assert torch.equal(batch.attacked[kept], attacked[kept])
    strength = torch.from_numpy(pack.strength)[batch.rows]
    reach = 255 * (batch.attacked - batch.clean).abs().flatten(1).amax(dim=1)
    assert bool((reach <= strength + 1e-3).all())
    assert {pack.draw(2, generator(seed)).mirrored for seed in range(9)} == {True, False}
