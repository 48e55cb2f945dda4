"""The denoising autoencoder that UDDN is compared with."""

from __future__ import annotations

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


def test_training_brings_the_pixels_closer(pack: AttackPack, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Autoencoder()
    clean, attacked = pack.images(torch.arange(4), mirrored=False)
    with torch.no_grad():
        before = (net.eval()(attacked) - clean).abs().mean()
    fit_autoencoder(net, pack, AutoencoderRecipe(steps=12, batch=4), tmp_path / "run")
    with torch.no_grad():
        after = (net.train()(attacked) - clean).abs().mean()
    assert float(after) < 0.9 * float(before)
    with pytest.raises(OptionError, match="share clean from 0 to 1"):
        AutoencoderRecipe(clean=2)


def test_the_command(pack: AttackPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pack.save("attacks.npz")
    assert main(["autoencoder", "--steps", "1", "--batch", "2"]) == 0
    purifier = Purifier("dae.onnx")
    x = np.random.default_rng(0).random((1, 3, 112, 112), np.float32)
    result = purifier.purify_canonical(x)
    assert result.score is None
    assert not np.allclose(result.images, x, atol=0.05)
