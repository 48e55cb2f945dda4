"""The denoising autoencoder that UDDN is compared with."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from facepurify import Purifier
from facepurify.errors import OptionError
from facepurify.train.__main__ import main
from facepurify.train.attack_pack import AttackPack
from facepurify.train.autoencoder import Autoencoder, AutoencoderRecipe, fit_autoencoder


def test_nothing_goes_around_the_bottleneck() -> None:
    torch.manual_seed(0)
    net = Autoencoder().eval()
    torch.nn.init.normal_(net.noise.weight, std=0.05)
    x = torch.rand(1, 3, 112, 112)
    seen: list[torch.Tensor] = []
    net.down[-1].register_forward_hook(lambda *parts: seen.append(parts[2]))
    net.down[-1].register_forward_hook(lambda *parts: torch.zeros_like(parts[2]))
    with torch.no_grad():
        one, other = net(x), net(1 - x)
    assert not torch.equal(*seen)
    assert torch.equal(one, other)


@pytest.mark.usefixtures("as_they_are")
def test_training_brings_the_pixels_closer(pack: AttackPack, tmp_path: Path) -> None:
    torch.manual_seed(0)
    one = dataclasses.replace(
        pack, clean=pack.clean[:1], attacked=pack.attacked[:1], strength=pack.strength[:1]
    )
    fit_autoencoder(Autoencoder(), one, AutoencoderRecipe(steps=25, batch=2), tmp_path / "run")
    with (tmp_path / "run" / "log.csv").open() as file:
        pixel = [float(row["pixel"]) for row in csv.DictReader(file)]
    grey = 255 * np.abs(pack.clean[0] / 255 - 0.5).mean()
    assert pixel[0] == pytest.approx(grey, rel=1e-4)  # it begins from grey
    assert pixel[-1] < 0.9 * pixel[0]
    with pytest.raises(OptionError, match="clean from 0 to 1"):
        AutoencoderRecipe(clean=2)


def test_the_command(pack: AttackPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("attacks.npz", "more.npz"):
        pack.save(name)
    command = ["autoencoder", "--attacks", "attacks.npz", "more.npz"]
    assert main([*command, "--steps", "1", "--batch", "2"]) == 0
    purifier = Purifier("dae.onnx")
    x = np.random.default_rng(0).random((1, 3, 112, 112), np.float32)
    result = purifier.purify_canonical(x)
    assert result.score is None
    assert not np.allclose(result.images, x, atol=0.05)
