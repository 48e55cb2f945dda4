"""FGSM, PGD and MIM against torchattacks, on a model that makes both attack the same cosine."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from facepurify.bench.attacks import FGSM, GOALS, MIM, PGD, Goal
from facepurify.bench.attacks.base import Best
from facepurify.bench.recognizers import Recognizer
from tests.bench.small_nets import RandomNet, lfw_pairs, random_anchor, random_images

EPS = 8
STEPS = 10


@pytest.fixture(scope="module")
def torchattacks() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports use what others deprecate
        return pytest.importorskip("torchattacks")


class DistanceToAnchor(nn.Module):
    """Logits [cosine, 0]: the cross entropy of class 0 falls as the cosine rises.

    Remembers the images that it was asked about.
    """

    def __init__(self, net: nn.Module, anchor: Tensor) -> None:
        super().__init__()
        self.net = net
        self.anchor = anchor
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        cosine = (self.net(x) * self.anchor).sum(1)
        return torch.stack([cosine, torch.zeros_like(cosine)], 1)


def labels(goal: Goal, count: int) -> Tensor:
    # The attack raises the cross entropy of the label: of 0 to dodge, of 1 to impersonate.
    return torch.full((count,), 0 if goal == "dodging" else 1)


def gain(model: DistanceToAnchor, images: Tensor, goal: Goal) -> Tensor:
    with torch.no_grad():
        cosine = model(images)[:, 0]
    return -cosine if goal == "dodging" else cosine


def best_iterate(
    make: type, model: DistanceToAnchor, x: Tensor, goal: Goal, **options: object
) -> Tensor:
    """torchattacks returns the last iterate, ours the best of all."""
    model.seen.clear()
    last = make(model, eps=EPS / 255, alpha=2 / 255, steps=STEPS, **options)(
        x, labels(goal, len(x))
    )
    iterates = [*model.seen, last]
    best = Best(x, gain(model, x, goal))
    for images in iterates:
        best.update(images, gain(model, images, goal))
    return best.levels


def cases(goal: Goal, shared: Path | None) -> tuple[nn.Module, Tensor, Tensor]:
    if shared is None:
        return RandomNet(), random_images(4), random_anchor(4)
    recognizer = Recognizer.from_onnx(shared / "models" / "mobileface_v2.onnx", threads=1)
    x, gallery = lfw_pairs(shared, 2, genuine=goal == "dodging")
    anchor = torch.from_numpy(recognizer.embed_numpy(gallery.numpy()))
    # In single precision, gradients next to zero may take either sign, and paths part.
    return recognizer.double(), ((x * 255).round().double()) / 255, anchor.double()


def compare(
    torchattacks: ModuleType, goal: Goal, shared: Path | None
) -> list[tuple[Tensor, Tensor]]:
    net, x, anchor = cases(goal, shared)
    model = DistanceToAnchor(net, anchor).eval()
    fgsm = torchattacks.FGSM(model, eps=EPS / 255)(x, labels(goal, len(x)))
    pgd = best_iterate(torchattacks.PGD, model, x, goal, random_start=False)
    mim = best_iterate(torchattacks.MIFGSM, model, x, goal)
    ours = [
        attack(net, x, anchor, goal, EPS, generator=torch.Generator())
        for attack in (FGSM(), PGD(steps=STEPS, random_start=False), MIM(steps=STEPS))
    ]
    return list(zip(ours, (fgsm, pgd, mim), strict=True))


@pytest.mark.parametrize("goal", GOALS)
def test_same_images_on_a_random_net(torchattacks: ModuleType, goal: Goal) -> None:
    for ours, theirs in compare(torchattacks, goal, None):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("goal", GOALS)
def test_same_images_on_a_recognizer(torchattacks: ModuleType, goal: Goal, shared: Path) -> None:
    for ours, theirs in compare(torchattacks, goal, shared):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("goal", GOALS)
def test_same_random_start(torchattacks: ModuleType, goal: Goal) -> None:
    net, x, anchor = RandomNet().float(), random_images(1).float(), random_anchor(1).float()
    net.forward = lambda images: nn.functional.normalize(net.layers(images))  # single precision
    model = DistanceToAnchor(net, anchor).eval()
    torch.manual_seed(3)
    attack = torchattacks.PGD(model, eps=EPS / 255, alpha=2 / 255, steps=STEPS)
    theirs = attack(x, labels(goal, 1))
    generator = torch.Generator().manual_seed(3)
    ours = PGD(steps=STEPS)(net, x, anchor, goal, EPS, generator=generator)
    # Ours begins at the same draw, but takes every gradient at the rounded image.
    assert gain(model, ours, goal) >= gain(model, (theirs * 255).round() / 255, goal) - 5e-3
    assert ((ours - theirs).abs() < 2.5 / 255).float().mean() > 0.9
