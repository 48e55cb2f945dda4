"""GNR against its definitions: the penalty, the strength, the spectrum, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facepurify.errors import OptionError
from facepurify.train.__main__ import main
from facepurify.train.attack_pack import AttackPack
from facepurify.train.gnr import Gnr, GnrRecipe, fit_gnr, gradient_penalty, real_noise, split
from facepurify.train.gnr_study import radial_spectrum


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", ["light", "published"])
def test_noise_is_as_strong_as_asked(size: str) -> None:
    torch.manual_seed(0)
    net = Gnr(size).eval()
    strength = torch.tensor([2.0, 12.0])
    noise = net.sample(2, strength, generator())
    assert noise.shape == (2, 3, 112, 112)
    assert bool((noise.abs().flatten(1).amax(dim=1) <= strength / 255).all())
    assert torch.equal(noise, net.sample(2, strength, generator()))
    assert not torch.equal(noise, net.sample(2, strength, generator(1)))
    assert net.judge(noise, strength).shape == (2,)
    assert len(net.generator) == 3 + 2


def test_real_noise_is_the_packs_over_its_strength(pack: AttackPack) -> None:
    fitted, kept = split(pack)
    assert sorted([*fitted.tolist(), *kept.tolist()]) == list(range(len(pack)))
    noise, strength = real_noise(pack, kept)
    row = int(kept[0])
    expected = (pack.attacked[row].astype(float) - pack.clean[row]) / pack.strength[row]
    np.testing.assert_allclose(noise[0], expected, atol=1e-4)
    assert float(noise.abs().max()) <= 1 + 1e-5
    assert strength[0] == pack.strength[row]


def test_penalty_of_a_linear_critic() -> None:
    """Of F(x) = a sum(x) the gradient is a everywhere, so that its length is a sqrt(D)."""

    class Linear(Gnr):
        def judge(self, noise: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
            return 0.5 * noise.sum(dim=(1, 2, 3))

    real, drawn = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    penalty = gradient_penalty(Linear(), real, drawn, torch.ones(2), torch.rand(2))
    assert float(penalty) == pytest.approx((0.5 * 48**0.5 - 1) ** 2, rel=1e-5)


def test_spectra() -> None:
    rng = np.random.default_rng(0)
    white = radial_spectrum(rng.normal(size=(200, 3, 32, 32)), 8)
    frequency = np.fft.fftfreq(32)
    radius = np.hypot(frequency[:, None], frequency) / np.hypot(0.5, 0.5)
    area = np.histogram(np.minimum(radius, 1 - 1e-9), bins=8, range=(0, 1))[0] / 32**2
    np.testing.assert_allclose(white, area, atol=2e-3)
    wave = np.cos(2 * np.pi * 12 * np.arange(32) / 32)[None, None, None].repeat(32, axis=2)
    assert radial_spectrum(wave, 8).argmax() == int(8 * (12 / 32) / np.hypot(0.5, 0.5))


def test_the_critic_learns_to_tell_noise_apart(pack: AttackPack, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Gnr()
    before = [parameter.clone() for parameter in net.parameters()]
    fit_gnr(net, pack, GnrRecipe(steps=3, batch=4, critic_steps=4, rate=1e-3), tmp_path / "run")
    real, strength = real_noise(pack, split(pack)[0])
    with torch.no_grad():
        margin = net.judge(real, strength) - net.judge(net.draw(strength, generator()), strength)
    assert float(margin.mean()) > 0
    moved = [
        not torch.equal(parameter, old)
        for parameter, old in zip(net.parameters(), before, strict=True)
    ]
    assert sum(moved) > 0.8 * len(moved)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.critic)


def test_the_command_and_the_noise_in_training(
    pack: AttackPack, guide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pack.save("attacks.npz")
    guides = ["--guide", str(guide_file), "--guide", str(guide_file)]
    small = ["--steps", "1", "--batch", "2"]
    assert main(["gnr", *guides, *small, "--critic-steps", "1"]) == 0
    report = json.loads(Path("runs/gnr/gnr.json").read_text())
    assert list(report) == ["real", "real, other faces", "GNR", "Gaussian"]
    assert report["real"]["spectral distance"] == 0
    assert report["Gaussian"]["length"] == pytest.approx(report["real"]["length"], rel=1e-4)
    assert report["real"]["shift"]["guide"] > report["Gaussian"]["shift"]["guide"]
    assert Path("runs/gnr/gnr.png").stat().st_size > 5000
    assert main(["uddn", *guides, *small, "--gnr", "runs/gnr", "--generated", "0.5"]) == 0


def test_sizes_and_recipes() -> None:
    with pytest.raises(OptionError, match="expected a size of"):
        Gnr("big")
    with pytest.raises(OptionError, match="expected critic_steps"):
        GnrRecipe(critic_steps=0)
