"""The immune space and PIN's losses against their definitions."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from facepurify.errors import DataError, OptionError
from facepurify.train.basis import Basis
from facepurify.train.basis_study import luma_eigenfaces
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.loop import load_run
from facepurify.train.pin import (
    PinNet,
    expected_loss,
    policy_gradient_loss,
    sparsity_weight,
)


def test_projection_is_the_published_formula(basis: Basis, faces: FaceSet) -> None:
    """mu + V V^T (x - mu) on the luma, in pixels and float64."""
    x = as_batch(faces.images[:4])
    space = ImmuneSpace(basis)
    ours = space.decode(space.encode(torch.from_numpy(x))).numpy()
    weights = np.array([0.299, 0.587, 0.114])
    luma = np.einsum("c,nchw->nhw", weights, x.astype(np.float64)).reshape(4, -1)
    mean, eigenfaces = luma_eigenfaces(basis, 20)
    expected = mean + (luma - mean) @ eigenfaces @ eigenfaces.T
    result = np.einsum("c,nchw->nhw", weights, ours.astype(np.float64)).reshape(4, -1)
    inside = ((ours > 1e-4) & (ours < 1 - 1e-4)).all(axis=1).reshape(4, -1)
    assert inside.mean() > 0.9
    assert np.allclose(result[inside], expected[inside], atol=2e-5)


def test_a_projection_is_idempotent(basis: Basis, faces: FaceSet) -> None:
    space = ImmuneSpace(basis)
    coefficients = space.encode(torch.from_numpy(as_batch(faces.images[:3]))) / 4
    once = space.decode(coefficients)
    assert torch.allclose(space.encode(once), coefficients, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, -0.5, 2.5, float("nan")])
def test_no_such_share(share: float, basis: Basis) -> None:
    with pytest.raises(OptionError, match="expected a share above 0 and at most 2, got"):
        PinNet(basis).take_off(share)


def test_a_share_above_one_turns_around_what_does_not_fit(basis: Basis, faces: FaceSet) -> None:
    x = torch.from_numpy(as_batch(faces.images[:2]))
    net = PinNet(basis).eval()
    with torch.no_grad():
        projected = net.purify(x)
        net.take_off(1.3)
        turned = net.purify(x)
    wanted = x + 1.3 * (projected - x)
    assert torch.allclose(turned, wanted.clamp(0, 1), atol=1e-6)
    assert not torch.allclose(turned, projected, atol=1e-2)


def test_expected_loss_is_the_mean_over_all_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    p, clean, noisy = torch.rand(3, 2, 6, generator=generator).double()
    price = torch.tensor(0.05).double()
    total = torch.zeros(2).double()
    for bits in itertools.product((0.0, 1.0), repeat=6):
        mask = torch.tensor(bits).double()
        chance = torch.where(mask > 0, p, 1 - p).prod(dim=1)
        noise = (mask * (noisy - clean)).square().sum(dim=1)
        lost = ((1 - mask) * clean).square().sum(dim=1)
        assert torch.allclose(noise + lost, (mask * noisy - clean).square().sum(dim=1))
        total += chance * (3.0 * noise + lost + price * mask.sum())
    assert torch.allclose(expected_loss(p, clean, noisy, price, 3.0), total)


def test_policy_gradient_has_the_exact_gradient_as_its_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(1, 4, generator=generator).mul(0.6).add(0.2).requires_grad_()
    clean, noisy = torch.randn(2, 1, 4, generator=generator)
    price = torch.tensor(0.3)
    (exact,) = torch.autograd.grad(expected_loss(p, clean, noisy, price, 2.0).sum(), p)
    (sampled,) = torch.autograd.grad(
        policy_gradient_loss(p, clean, noisy, price, 2.0, 200_000, generator).sum(), p
    )
    assert torch.allclose(sampled, exact, atol=0.03)


def test_sparsity_price_falls_with_the_rank() -> None:
    values = torch.tensor([1.0, 5.0, 3.0])
    assert [float(sparsity_weight(values, rank)) for rank in (1, 2, 3)] == [5.0, 3.0, 1.0]
    with pytest.raises(OptionError, match="expected a sparsity rank of 1 to 3, got 4"):
        sparsity_weight(values, 4)


@pytest.mark.parametrize("selector", ["light", "published"])
def test_a_fresh_net_keeps_nearly_everything(basis: Basis, faces: FaceSet, selector: str) -> None:
    torch.manual_seed(0)
    net = PinNet(basis, selector).eval()
    x = torch.from_numpy(as_batch(faces.images[:2]))
    with torch.no_grad():
        coefficients, probability, suspicion = net(x)
        purified = net.purify(x)
    assert coefficients.shape == probability.shape == (2, 32)
    assert suspicion.shape == (2,)
    assert float(probability.min()) > 0.5
    assert purified.shape == x.shape
    assert float(purified.min()) >= 0
    assert float(purified.max()) <= 1


def test_a_run_that_is_not_there(basis: Basis, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a checkpoint"):
        load_run(PinNet(basis), tmp_path)
