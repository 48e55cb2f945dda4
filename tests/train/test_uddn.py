"""The denoiser's networks: what they start from, what they are made of, what they become."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from facepurify.errors import DataError, OptionError
from facepurify.train.loop import load_run
from facepurify.train.overshoot import Factors
from facepurify.train.uddn import UddnNet, pruned


@pytest.mark.parametrize("size", ["light", "slim", "wide", "published"])
def test_untrained_it_changes_nothing_and_can_learn(size: str) -> None:
    torch.manual_seed(0)
    net = UddnNet(size).eval()
    x = torch.rand(2, 3, 112, 112)
    purified, suspicion = net(x)
    assert torch.equal(purified, x)
    assert suspicion.shape == (2,)
    (0.4 * purified.mean() + suspicion.sum()).backward()
    gradient = net.unet.noise.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("size", ["light", "slim", "wide", "published"])
def test_what_it_calls_noise_is_added_and_clipped(size: str) -> None:
    torch.manual_seed(0)
    net = UddnNet(size).eval()
    assert net.unet.noise.bias is not None
    nn.init.constant_(net.unet.noise.bias, -0.25)
    x = torch.rand(1, 3, 112, 112)
    assert torch.allclose(net.purify(x), (x - 0.25).clamp(0, 1))


@pytest.mark.parametrize("size", ["light", "slim", "wide", "published"])
def test_an_overshoot_takes_so_many_times_the_noise_off(size: str) -> None:
    torch.manual_seed(0)
    net = UddnNet(size).eval()
    nn.init.normal_(net.unet.noise.weight, std=1e-3)
    assert net.unet.noise.bias is not None
    nn.init.constant_(net.unet.noise.bias, 0.01)
    x = 0.3 + 0.4 * torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        once, suspicion = net(x)
        net.overshoot(Factors(1.5, 1.5, 1.5))
        more, same = net(x)
    assert float((once - x).abs().max()) < 0.2  # so that nothing is clipped
    assert torch.allclose(more - x, 1.5 * (once - x), atol=1e-6)
    assert torch.equal(suspicion, same)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_no_such_overshoot(factor: float) -> None:
    with pytest.raises(OptionError, match="expected an overshoot above 0, got"):
        UddnNet().overshoot(Factors(factor, factor, factor))


def test_published_has_the_papers_units() -> None:
    """C2, four C3 that halve the side; three C3 and one C2; a 1 x 1 convolution to 3 channels."""
    unet = UddnNet("published").unet.eval()
    kinds = [type(unit).__name__ for unit in (*unet.encoder, *unet.decoder)]
    assert kinds == ["_C2", *["_C3"] * 4, *["_C3"] * 3, "_C2"]
    sides, x = [], torch.zeros(1, 3, 112, 112)
    for unit in unet.encoder:
        x = unit(x)
        sides.append(x.shape[-1])
    assert sides == [112, 56, 28, 14, 7]
    assert unet.noise.kernel_size == (1, 1)
    convolutions = [layer for layer in unet.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 2 * 2 + 7 * 3 + 1


def test_blocks_of_pixels_are_those_of_a_pixel_shuffle() -> None:
    unet = UddnNet("light").unet
    x = torch.rand(2, 12, 5, 7)
    assert torch.equal(unet.pixels(x), nn.PixelShuffle(2)(x))


def test_pruned_it_keeps_the_layers_of_the_smaller_one() -> None:
    torch.manual_seed(0)
    net = UddnNet("light").eval()
    smaller = pruned(net, "slim")
    assert smaller.size == "slim"
    whole, kept = net.state_dict(), smaller.state_dict()
    assert all(torch.equal(whole[name], weight) for name, weight in kept.items())
    assert len(kept) < len(whole)
    with torch.no_grad():
        smaller.unet.noise.bias.add_(1)  # a copy
    assert not net.unet.noise.bias.any()


@pytest.mark.parametrize("size", ["wide", "published"])
def test_only_layers_that_are_there_can_be_kept(size: str) -> None:
    with pytest.raises(OptionError, match=f"expected layers of size {size} to keep, got"):
        pruned(UddnNet("light"), size)


def test_the_light_one_is_light() -> None:
    net = UddnNet("light")
    assert 4 * sum(parameter.numel() for parameter in net.parameters()) <= 6_000_000
    for layer in net.modules():
        assert not isinstance(layer, nn.PReLU)
        if isinstance(layer, nn.Conv2d):
            assert layer.groups == 1


def test_another_size_and_another_networks_run(tmp_path: Path) -> None:
    expected = "expected a size of light, slim, wide, published, got 'big'"
    with pytest.raises(OptionError, match=expected):
        UddnNet("big")
    torch.save({"parts": {"net": UddnNet("light").state_dict()}}, tmp_path / "checkpoint.pt")
    load_run(UddnNet("light"), tmp_path)
    with pytest.raises(DataError, match="expected a checkpoint"):
        load_run(UddnNet("published"), tmp_path)
