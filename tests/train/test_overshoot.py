"""What is made of the noise that a denoiser found, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from facepurify import Purifier
from facepurify.errors import OptionError
from facepurify.train.__main__ import main
from facepurify.train.export import export_purifier
from facepurify.train.overshoot import CHOSEN, ONCE, Factors, Pixels
from facepurify.train.recover import recover_uddn
from facepurify.train.uddn import UddnNet

FACTOR = st.floats(0.25, 4)
INSIDE = slice(2, -2)  # the coarse part of what is nearer to an edge has no square beyond it


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@given(factor=FACTOR)
def test_one_factor_is_the_same_for_all_noise(factor: float) -> None:
    noise = drawn(2, 3, 16, 24)
    pixels = Pixels(1, Factors(factor, factor, factor)).double()
    assert pixels.coarse is None  # no time is lost on it
    assert torch.allclose(pixels(noise), factor * noise, atol=1e-5)


def test_once_a_block_is_a_pixel_shuffle() -> None:
    noise = drawn(2, 12, 8, 10)
    assert torch.equal(Pixels(2, ONCE).double()(noise), nn.PixelShuffle(2)(noise))


@settings(max_examples=30, deadline=None)
@given(factors=st.builds(Factors, FACTOR, FACTOR, FACTOR))
def test_blocks_are_made_more_of_as_their_pixels_are(factors: Factors) -> None:
    noise = drawn(2, 12, 8, 10)
    wanted = Pixels(1, factors).double()(nn.PixelShuffle(2)(noise))
    assert torch.allclose(Pixels(2, factors).double()(noise), wanted, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(factors=st.builds(Factors, FACTOR, FACTOR, FACTOR))
def test_each_part_has_its_factor(factors: Factors) -> None:
    overshoot = Pixels(1, factors).double()
    signs = torch.ones(16, dtype=torch.float64)
    signs[::2] = -1
    checkers = (signs[:, None] * signs).expand(1, 3, 16, 16)  # no square has a mean
    red = checkers * torch.tensor([1.0, -0.5, -0.5]).reshape(1, 3, 1, 1)  # no luma
    assert torch.allclose(overshoot(checkers), factors.luma * checkers, atol=1e-5)
    assert torch.allclose(overshoot(red), factors.chroma * red, atol=1e-5)
    slope = torch.arange(16, dtype=torch.float64).expand(1, 3, 16, 16)  # linear: coarse, all of it
    found = overshoot(slope)[..., INSIDE, INSIDE]
    assert torch.allclose(found, factors.coarse * slope[..., INSIDE, INSIDE], atol=1e-4)


def test_it_is_linear() -> None:
    overshoot = Pixels(1, CHOSEN).double()
    one, other = drawn(1, 3, 112, 112), drawn(1, 3, 112, 112).flip(2)
    both = overshoot(one + 2 * other)
    assert torch.allclose(both, overshoot(one) + 2 * overshoot(other), atol=1e-9)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1,0,1"])
def test_factors_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="expected an overshoot above 0, got"):
        Factors.read(text)


@pytest.mark.parametrize("text", ["", "two", "1,2", "1,2,3,4"])
def test_factors_of_no_kind(text: str) -> None:
    with pytest.raises(OptionError, match="expected an overshoot of one number, or of three"):
        Factors.read(text)
    assert Factors.read(str(CHOSEN)) == CHOSEN


def test_a_command_says_what_factors_it_expects(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--data", "faces", "--overshoot", "1,2"])
    assert "one number, or of three" in capsys.readouterr().err


@pytest.fixture(params=["slim", "published"])
def noisy(request: pytest.FixtureRequest) -> UddnNet:
    """A denoiser that finds noise in everything."""
    torch.manual_seed(0)
    net = UddnNet(request.param).eval()
    nn.init.normal_(net.unet.noise.weight, std=1e-3)
    return net


@torch.no_grad()
def test_a_file_takes_more_off_and_is_read_without_it(noisy: UddnNet, tmp_path: Path) -> None:
    x = 0.3 + 0.4 * torch.rand(2, 3, 112, 112)
    once, suspicion = noisy(x)
    assert 0 < float((once - x).abs().max()) < 0.1  # so that nothing is clipped
    noisy.overshoot(CHOSEN)
    more, same = noisy(x)
    assert torch.allclose(more - x, Pixels(1, CHOSEN)(once - x), atol=1e-6)
    assert torch.equal(suspicion, same)
    assert noisy.state_dict().keys() == UddnNet(noisy.size).state_dict().keys()
    export_purifier(noisy, tmp_path / "over.onnx")
    written = Purifier(tmp_path / "over.onnx").purify_canonical(x.numpy()).images
    assert np.allclose(written, more, atol=1e-5)
    read = recover_uddn((tmp_path / "over.onnx").read_bytes())
    assert read.unet.pixels.coarse is None
    assert torch.allclose(read(x)[0], once, atol=1e-5)
