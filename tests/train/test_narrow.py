"""A denoiser behind a fixed projection, rehearsed against those who attack through it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facepurify import Purifier
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.train.__main__ import main
from facepurify.train.attack_pack import AttackPack
from facepurify.train.basis import Basis
from facepurify.train.export import export_purifier
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.fit_uddn import UddnRecipe, evasion, fit_uddn
from facepurify.train.fresh import others, rehearse
from facepurify.train.immune import ImmuneNet
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.pin import PinNet
from facepurify.train.recover import recover_uddn
from facepurify.train.runs import load_uddn, open_run
from facepurify.train.uddn import UddnNet, pruned


@pytest.fixture
def narrow(basis: Basis) -> UddnNet:
    torch.manual_seed(0)
    net = UddnNet(front=basis).eval()
    nn.init.normal_(net.unet.noise.weight, std=0.02)
    return net


@pytest.fixture
def images(faces: FaceSet) -> torch.Tensor:
    return torch.from_numpy(as_batch(faces.images[:4]))


def test_nothing_beside_the_eigenfaces_gets_through(
    narrow: UddnNet, images: torch.Tensor, basis: Basis
) -> None:
    space = ImmuneSpace(basis)
    noise = 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    beside = noise - (
        space.decode(space.encode(images + noise)) - space.decode(space.encode(images))
    )
    with torch.no_grad():
        clean, attacked = narrow.purify(images), narrow.purify(images + beside)
        seen = space.decode(space.encode(images))
    assert float(beside.abs().mean()) > 0.02
    assert torch.allclose(clean, attacked, atol=0.02)
    assert not torch.allclose(clean, seen, atol=0.02)


def test_what_ships_comes_back_and_can_learn(
    narrow: UddnNet, images: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "narrow.onnx"
    assert export_purifier(narrow, path) < 1 / 255
    assert Purifier(path).info.outputs == ("purified", "score")
    again = recover_uddn(path.read_bytes())
    assert type(again) is UddnNet
    assert again.front is not None
    with torch.no_grad():
        wanted, score = narrow(images)
        purified, logit = again(images)
    assert torch.allclose(purified, wanted, atol=2e-3)  # eigenfaces are kept in half precision
    assert torch.allclose(logit, score, atol=1e-2)
    again.purify(images).mean().backward()
    assert again.unet.noise.weight.grad is not None
    assert load_uddn(str(path)).front is not None


def test_between_two_projections(
    narrow: UddnNet, images: torch.Tensor, basis: Basis, tmp_path: Path
) -> None:
    """The eigenfaces before the denoiser and those behind it are told apart."""
    net = ImmuneNet(narrow, PinNet(basis.first(8, 4)))
    net.pin.take_off(0.5)
    path = tmp_path / "between.onnx"
    assert export_purifier(net, path) < 1 / 255
    again = recover_uddn(path.read_bytes())
    assert isinstance(again, ImmuneNet)
    assert again.front is not None
    assert again.front.count == 32
    assert again.space.count == 12
    with torch.no_grad():
        assert torch.allclose(again.purify(images), net.purify(images), atol=2e-3)
        alone = again.denoiser()
        assert torch.allclose(alone.purify(images), narrow.purify(images), atol=2e-3)
        assert not torch.allclose(alone.purify(images), net.purify(images), atol=0.01)
    for build in (lambda: ImmuneNet(net, PinNet(basis)), lambda: pruned(net, "slim")):
        with pytest.raises(OptionError, match=r"expected a denoiser alone .* got ImmuneNet"):
            build()


def test_pruned_it_keeps_its_projection(narrow: UddnNet, images: torch.Tensor) -> None:
    smaller = pruned(narrow, "slim")
    assert narrow.front is not None
    assert smaller.front is not None
    wanted = narrow.front.decode(narrow.front.encode(images))
    assert torch.allclose(smaller.front.decode(smaller.front.encode(images)), wanted)


def test_a_victim_is_another() -> None:
    own = torch.eye(5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        victims = others(own, generator)
        assert not bool((victims * own).any())
        assert torch.equal(victims.sum(dim=0), torch.ones(5))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_rehearsal_reaches_for_its_victims(
    steps: int, guide: Recognizer, images: torch.Tensor
) -> None:
    with torch.no_grad():
        own = guide.embed(images)
    victims = own.roll(1, 0)
    attacked = rehearse(guide.embed, images, victims, torch.Generator().manual_seed(0), steps)
    levels = (attacked - images).abs().flatten(1).amax(dim=1) * 255
    assert torch.all(levels <= 6 + 1e-3)
    assert torch.all(levels > 1)
    with torch.no_grad():
        nearer = (guide.embed(attacked) * victims).sum(dim=1) - (own * victims).sum(dim=1)
    assert torch.all(nearer > 0)


def test_evasion_counts_the_victim_before_oneself() -> None:
    own, victim = torch.eye(2)[:1], torch.eye(2)[1:]
    for angle in (0.0, 0.4, 1.2, 1.6):
        seen = torch.tensor([[np.cos(angle), np.sin(angle)]], dtype=torch.float32)
        expected = max(np.sin(angle) - 0.1, 0) + (1 - np.cos(angle)) / 4
        assert evasion(seen, own, victim).item() == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_a_rehearsal_is_that_of_its_victims(
    narrow: UddnNet, pack: AttackPack, guide: Recognizer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    met: list[torch.Tensor] = []

    def noted(embed: object, clean: torch.Tensor, victims: torch.Tensor, *rest: object):
        met.append(victims)
        return rehearse(embed, clean, victims, *rest)  # type: ignore[arg-type]

    def judged(purified: torch.Tensor, own: torch.Tensor, victims: torch.Tensor) -> torch.Tensor:
        assert torch.equal(victims, met[-1])
        assert not torch.equal(own, victims)
        return evasion(purified, own, victims)

    monkeypatch.setattr("facepurify.train.fit_uddn.rehearse", noted)
    monkeypatch.setattr("facepurify.train.fit_uddn.evasion", judged)
    before = narrow.unet.noise.weight.clone()
    recipe = UddnRecipe(steps=2, batch=6, fresh=1, rehearse=2, clean=0.3, noisy=0, band=0)
    fit_uddn(narrow, pack, [guide, guide], recipe, tmp_path / "run")
    assert len(met) == 2
    assert not torch.equal(narrow.unet.noise.weight, before)


@pytest.mark.parametrize("wrong", [{"batch": 1}, {"distance": "feature"}])
def test_what_cannot_be_rehearsed(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="expected a batch with victims"):
        UddnRecipe(fresh=1, rehearse=2, **wrong)  # type: ignore[arg-type]


def test_commands_to_a_rehearsed_purifier(
    folders: list[Path], basis: Basis, pack: AttackPack, guide_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    pack.save("attacks.npz")
    basis.save("eigenfaces.npz")
    guides = ["--guide", str(guide_file), "--guide", str(guide_file), "--batch", "4"]
    data = ["--data", *map(str, folders), "--cache", "cache"]
    space = ["--eigenfaces", "eigenfaces.npz", "--luma", "12", "--chroma", "8"]
    hard = ["--fresh", "1", "--rehearse", "2"]
    adapt = ["adapt", *data, "--recognizer", str(guide_file), "--model", "robust.onnx", "--batch",
             "2", "--minutes", "0.05", "--pairs", "6", "--attacked", "3", *hard]  # fmt: skip
    for arguments in (
        ["uddn", *guides, *space, *hard, "--steps", "2", "--run", "runs/robust"],
        ["uddn", *guides, *space, *hard, "--steps", "2", "--run", "runs/robust", "--resume"],
        ["export", *data, "--run", "runs/robust", "-o", "robust.onnx"],
        ["uddn", *guides, *hard, "--uddn", "robust.onnx", "--steps", "1", "--run", "runs/on"],
        [*adapt, "--overshoot", "1", "-o", "mine.onnx"],
    ):
        assert main(arguments) == 0, arguments
    for net in (open_run("runs/robust"), load_uddn("runs/on"), load_uddn("mine.onnx")):
        assert type(net) is UddnNet
        assert net.front is not None
        assert net.front.count == 20
    capsys.readouterr()
    assert main([*adapt, "-o", "over.onnx", "--run", "runs/over"]) == 1
    assert "expected fresh and overshoot of 1 with rehearse" in capsys.readouterr().err
    fewer = ["--eigenfaces", "eigenfaces.npz", "--luma", "6", "--chroma", "4", "--steps", "1"]
    again = ["uddn", *guides, *fewer, *hard, "--uddn", "robust.onnx", "--run", "runs/fewer"]
    assert main(again) == 0
    front = load_uddn("runs/fewer").front
    assert front is not None
    assert front.count == 10
