"""The immune network: both parts in one, trained as it ships, and back from its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facepurify import Purifier
from facepurify.bench.defences import PurifierDefence
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError, ModelContractError, OptionError
from facepurify.train.__main__ import main
from facepurify.train.attack_pack import AttackPack
from facepurify.train.basis import Basis
from facepurify.train.export import export_purifier
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.fit_uddn import UddnRecipe, fit_uddn, projected
from facepurify.train.immune import ImmuneNet, mask_gap
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.overshoot import CHOSEN
from facepurify.train.pin import PinNet, mean_mask
from facepurify.train.recover import recover_pin, recover_uddn
from facepurify.train.runs import describe_denoiser, describe_run, load_pin, load_uddn, open_run
from facepurify.train.uddn import UddnNet


def stirred(net: nn.Module) -> nn.Module:
    """The same with weights and statistics that are each its own."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
        elif isinstance(layer, PinNet):
            nn.init.normal_(layer.evidence, std=0.3)
        elif isinstance(layer, UddnNet):
            nn.init.normal_(layer.unet.noise.weight, std=0.01)
    return net.eval()


def moved_since(before: dict[str, torch.Tensor], net: nn.Module) -> set[str]:
    """The names of what a training changed."""
    after = net.state_dict()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.fixture
def immune(basis: Basis) -> ImmuneNet:
    torch.manual_seed(0)
    net = stirred(ImmuneNet(UddnNet(), PinNet(basis)))
    assert isinstance(net, ImmuneNet)
    return net


def test_a_step_may_judge_the_denoiser_alone(
    immune: ImmuneNet, pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    selector = immune.pin.selector.logits.weight.clone()
    noise = immune.unet.noise.weight.clone()
    fit_uddn(immune, pack, [guide, guide], UddnRecipe(steps=2, batch=2, direct=1), tmp_path)
    assert torch.equal(immune.pin.selector.logits.weight, selector)
    assert not torch.equal(immune.unet.noise.weight, noise)
    x, _ = pack.images(torch.arange(2), mirrored=False)
    with torch.no_grad():
        assert torch.equal(immune.denoiser().purify(x), immune.denoise(x)[0])


def test_a_share_takes_so_much_off_of_what_does_not_fit(
    immune: ImmuneNet, images: torch.Tensor
) -> None:
    with torch.no_grad():
        denoised, suspicion = immune.eval().denoise(images)
        fitting = immune.pin.purify(denoised)
        immune.pin.take_off(1 / 3)
        purified, same = immune(images)
    assert torch.allclose(purified, (2 * denoised + fitting) / 3, atol=1e-6)
    assert not torch.allclose(denoised, fitting, atol=1e-2)
    assert torch.equal(suspicion, same)


@pytest.fixture
def images(faces: FaceSet) -> torch.Tensor:
    return torch.from_numpy(as_batch(faces.images[:3]))


def test_the_denoiser_comes_first_and_the_alarm_is_its_own(
    basis: Basis, images: torch.Tensor
) -> None:
    torch.manual_seed(0)
    denoiser, pin = UddnNet(), PinNet(basis)
    for net in (denoiser, pin):
        stirred(net)
    with torch.no_grad():
        denoised, suspicion = denoiser(images)
        expected = pin.purify(denoised)
        other_order = denoiser.purify(pin.purify(images))
        purified, logit = ImmuneNet(denoiser, pin).eval()(images)
    assert torch.equal(purified, expected)
    assert torch.equal(logit, suspicion)
    assert not torch.allclose(purified, other_order, atol=1e-3)


def test_the_space_gives_its_basis_back(basis: Basis) -> None:
    again = ImmuneSpace(basis).basis()
    for one, other in zip((*basis.luma, *basis.chroma), (*again.luma, *again.chroma), strict=True):
        assert np.array_equal(one.zone, other.zone)
        assert np.array_equal(one.mean, other.mean)
        assert np.array_equal(one.components, other.components)
        assert np.array_equal(one.eigenvalues, other.eigenvalues)


def test_the_loss_moves_both_parts(
    immune: ImmuneNet, pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in immune.state_dict().items()}
    recipe = UddnRecipe(steps=3, batch=4, fresh=0.5, rehearse=1)
    fit_uddn(immune, pack, [guide, guide], recipe, tmp_path / "run")
    moved = moved_since(before, immune)
    parts = ("unet.noise.weight", "suspicion.weight", "pin.evidence", "pin.selector.logits.weight")
    assert set(parts) <= moved
    assert not any(name.startswith(("pin.space", "pin.suspicion")) for name in moved)


def test_a_frozen_denoiser_stays_as_it_is(
    immune: ImmuneNet, pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in immune.state_dict().items()}
    recipe = UddnRecipe(steps=2, batch=4, frozen=True, reconstruction=0.1, sparsity=4)
    fit_uddn(immune, pack, [guide, guide], recipe, tmp_path / "run")
    moved = moved_since(before, immune)
    assert {"pin.evidence", "pin.selector.logits.weight"} <= moved
    assert all(name.startswith(("pin.selector", "pin.evidence")) for name in moved)


def test_only_what_a_projection_follows_can_be_frozen(
    pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="and frozen off, for a denoiser without a projection"):
        fit_uddn(UddnNet(), pack, [guide], UddnRecipe(steps=1, batch=2, frozen=True), tmp_path)
    with pytest.raises(OptionError, match="expected direct of 0 with frozen"):
        UddnRecipe(frozen=True, direct=0.5)


@pytest.mark.parametrize("direct", [0.0, 1.0])
def test_the_rehearsed_attack_goes_through_what_is_judged(
    direct: float, immune: ImmuneNet, pack: AttackPack, guide: Recognizer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    passes: list[str] = []
    denoise, choose = immune.denoise, immune.pin.choose
    monkeypatch.setattr(immune, "denoise", lambda x: (passes.append("denoiser"), denoise(x))[1])
    monkeypatch.setattr(immune.pin, "choose", lambda x: (passes.append("pin"), choose(x))[1])
    recipe = UddnRecipe(
        steps=1, batch=4, fresh=1.0, rehearse=2, direct=direct, reconstruction=0.01, sparsity=4
    )
    fit_uddn(immune, pack, [guide, guide], recipe, tmp_path / "run")
    assert passes == (["denoiser"] if direct else ["denoiser", "pin"]) * 4


def test_the_expected_loss_is_seen_through_the_denoiser(
    immune: ImmuneNet, images: torch.Tensor
) -> None:
    recipe = UddnRecipe(reconstruction=1, harm=7, sparsity=3)
    clean = images.flip(0)
    purified, suspicion, lost = projected(immune, images, clean, recipe)
    with torch.no_grad():
        for one, other in zip((purified, suspicion), immune(images), strict=True):
            assert torch.equal(one, other)
        _, coefficients, p, _ = (each.double() for each in immune.restore(images, mean_mask))
        wanted, eigenvalues = immune.space.encode(clean).double(), immune.space.eigenvalues.double()
        noise = (coefficients - wanted).square()
        kept = p * (7 * noise + eigenvalues.sort(descending=True).values[2])
        expected = (kept + (1 - p) * wanted.square()).sum(dim=1).mean()
    assert lost.item() == pytest.approx(float(expected), rel=1e-5)
    lost.backward()
    assert float(immune.unet.noise.weight.grad.abs().max()) > 0


def test_what_ships_is_what_was_trained(
    immune: ImmuneNet, images: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "immune.onnx"
    assert export_purifier(immune, path) < 1 / 255
    purifier = Purifier(path)
    assert purifier.info.masks[0] == "expected"
    with torch.no_grad():
        purified, suspicion = immune(images)
        _, _, probability, _ = immune.restore(images, mean_mask)
    result = purifier.purify_canonical(images.numpy())
    # Eigenfaces are kept in half precision.
    assert np.abs(result.images - purified.numpy()).max() < 2e-3
    np.testing.assert_allclose(result.probability, probability.numpy(), atol=5e-3)
    np.testing.assert_allclose(result.score, suspicion.sigmoid().numpy(), atol=1e-5)
    x = images.requires_grad_()
    (gradient,) = torch.autograd.grad(PurifierDefence(str(path)).differentiable(x).sum(), x)
    assert float(gradient.abs().max()) > 0


def test_an_exported_one_comes_back_and_can_learn(
    immune: ImmuneNet, images: torch.Tensor, tmp_path: Path
) -> None:
    export_purifier(immune, tmp_path / "immune.onnx")
    again = recover_uddn((tmp_path / "immune.onnx").read_bytes())
    assert isinstance(again, ImmuneNet)
    with torch.no_grad():
        for one, other in zip(again(images), immune(images), strict=True):
            assert torch.allclose(one, other, atol=2e-3)
    again.purify(images).mean().backward()
    assert float(again.pin.evidence.grad.abs().max()) > 0


def test_an_exported_pin_comes_back(
    basis: Basis, images: torch.Tensor, tmp_path: Path, tiny_model: Path
) -> None:
    torch.manual_seed(0)
    pin = stirred(PinNet(basis))
    export_purifier(pin, tmp_path / "pin.onnx")
    again = recover_pin((tmp_path / "pin.onnx").read_bytes())
    with torch.no_grad():
        for one, other in zip(again(images), pin(images), strict=True):
            assert torch.allclose(one, other, atol=5e-3)
    with pytest.raises(ModelContractError, match="from a run of pin, got one without"):
        recover_pin(tiny_model.read_bytes())


def test_the_shipped_ones_make_one(images: torch.Tensor) -> None:
    denoiser = load_uddn("uddn")
    denoiser.overshoot(CHOSEN)  # which is in the file, and in none that is trained on
    net = ImmuneNet(denoiser, load_pin("pin")).eval()
    with torch.no_grad():
        ours = net(images)[0].numpy()
    chain = Purifier("uddn+pin").purify_canonical(images.numpy()).images
    assert np.abs(ours - chain).max() < 2e-3


def test_the_gap_of_hard_masks_by_hand(
    immune: ImmuneNet, pack: AttackPack, guide: Recognizer
) -> None:
    gaps = mask_gap(immune, pack, [guide], count=2)
    _, attacked = pack.images(torch.arange(2), mirrored=False)
    with torch.no_grad():
        _, coefficients, p, _ = immune.restore(attacked, mean_mask)
        hard = (p > p.mean(dim=1, keepdim=True)).float()
        fixed = immune.space.decode(hard * coefficients)
        levels = 255 * (fixed - immune.purify(attacked)).abs().mean()
    assert gaps["fixed"]["pixels"] == pytest.approx(float(levels), rel=1e-5)
    assert gaps["sampled"][guide.name] > 0


def test_commands_to_a_purifier(
    folders: list[Path],
    basis: Basis,
    pack: AttackPack,
    guide_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pack.save("attacks.npz")
    basis.save("eigenfaces.npz")
    guides = ["--guide", str(guide_file), "--guide", str(guide_file)]
    small = ["--steps", "1", "--batch", "2"]
    data = ["--data", *map(str, folders), "--cache", "cache"]
    onnx_files = ["--uddn", "uddn.onnx", "--pin", "pin.onnx"]
    for arguments in (
        ["uddn", *guides, *small],
        ["pin", *guides, *small, "--luma", "20", "--chroma", "12", "--sparsity", "9"],
        ["immune", *guides, *small, "--uddn", "runs/uddn", "--pin", "runs/pin"],
        ["immune", *guides, *small, "--pin", "runs/pin", "--start", "runs/immune", "--run", "more",
         "--rate", "1e-9"],
        ["export", *data, "--run", "runs/uddn"],
        ["export", *data, "--run", "runs/pin"],
        ["export", *data, "--run", "runs/uddn", "--pin", "pin.onnx", "-o", "joined.onnx"],
        ["export", *data, "--run", "runs/uddn", "--overshoot", "1.5", "-o", "over.onnx"],
        ["export", *data, "--run", "runs/uddn", "--overshoot", "1.5", "--pin", "pin.onnx",
         "-o", "beyond.onnx"],
        ["export", *data, "--run", "runs/uddn", "--pin", "pin.onnx", "--share", "0.25",
         "-o", "partly.onnx"],
        ["immune", *guides, *small, *onnx_files, "--settled", "--run", "from_files"],
        ["export", *data, "--run", "from_files"],
        ["export", *data, "--run", "from_files", "--share", "0.25", "-o", "quarter.onnx"],
        ["immune", *guides, *small, "--pin", "pin.onnx", "--run", "new", "--direct", "1"],
        ["export", *data, "--run", "new", "--denoiser", "--half", "-o", "alone.onnx"],
        ["export", *data, "--run", "new", "--denoiser", "--half", "-o", "pin"],
    ):  # fmt: skip
        assert main(arguments) == 0, arguments
    first, more = open_run("runs/immune"), open_run("more")
    assert isinstance(first, ImmuneNet)
    assert isinstance(more, ImmuneNet)
    assert bool(first.unet.noise.weight.any())
    assert torch.allclose(more.unet.noise.weight, first.unet.noise.weight, atol=1e-6)
    assert "fixed: " in capsys.readouterr().out
    assert {"purified", "probability", "score"} == set(Purifier("immune.onnx").info.outputs)
    assert set(Purifier("alone.onnx").info.outputs) == {"purified", "score"}
    assert Path("pin").read_bytes() == Path("alone.onnx").read_bytes()
    assert 2 * Path("alone.onnx").stat().st_size < 1.02 * Path("uddn.onnx").stat().st_size
    assert main(["export", *data, "--run", "runs/uddn", "--denoiser"]) == 1
    assert "expected a run of immune" in capsys.readouterr().err
    alone, whole, x = load_uddn("immune.onnx"), open_run("from_files"), torch.rand(2, 3, 112, 112)
    assert type(alone) is UddnNet
    assert isinstance(whole, ImmuneNet)
    with torch.no_grad():
        assert torch.allclose(alone(x)[0], whole.denoiser()(x)[0], atol=1e-5)
        chosen, known = load_pin("immune.onnx").choose(x), whole.pin.choose(x)
    assert torch.allclose(chosen[1], known[1], atol=1e-4)
    image = 0.3 + 0.4 * x.numpy()
    for file, denoiser in (("joined.onnx", "uddn.onnx"), ("beyond.onnx", "over.onnx")):
        joined, chain = Purifier(file), Purifier([denoiser, "pin.onnx"])
        assert "probability" in joined.info.outputs
        assert np.allclose(
            joined.purify_canonical(image).images, chain.purify_canonical(image).images, atol=1e-3
        )
    once, over = (Purifier(f).purify_canonical(image).images for f in ("uddn.onnx", "over.onnx"))
    assert not np.array_equal(once, image)
    assert np.allclose(over - image, 1.5 * (once - image), atol=1e-5)
    all_off, partly = (
        Purifier(f).purify_canonical(image).images for f in ("joined.onnx", "partly.onnx")
    )
    assert np.allclose(partly - once, 0.25 * (all_off - once), atol=1e-3)
    assert not np.allclose(partly, all_off, atol=1e-2)
    assert float(recover_uddn(Path("partly.onnx").read_bytes()).pin.share) == 0.25
    assert float(load_pin("partly.onnx").share) == float(load_pin("quarter.onnx").share) == 0.25
    assert main(["export", *data, "--run", "runs/uddn", "--share", "0.5"]) == 1
    assert "expected a projection for --share, got UDDN alone" in capsys.readouterr().err
    assert main(["export", *data, "--run", "runs/pin", "--overshoot", "1.5"]) == 1
    assert "expected a denoiser for --overshoot, got PIN" in capsys.readouterr().err
    assert main(["export", *data, "--run", "runs/pin", "--pin", "pin.onnx"]) == 1
    assert "expected a run of uddn for --pin, got PIN" in capsys.readouterr().err
    adapt = ["adapt", *data, "--recognizer", str(guide_file), "--model", "immune.onnx"]
    assert (
        main([*adapt, "--minutes", "0.02", "--batch", "2", "--pairs", "4", "--attacked", "2"]) == 0
    )
    assert isinstance(recover_uddn(Path("adapted.onnx").read_bytes()), ImmuneNet)
    assert main(["immune", *guides, *small, *onnx_files, "--run", "other"]) == 1
    assert "expected --settled" in capsys.readouterr().err


def test_a_run_keeps_its_eigenfaces(
    immune: ImmuneNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    describe_denoiser("run", immune)
    torch.save({"parts": {"net": immune.state_dict()}}, "run/checkpoint.pt")
    before = Path("run/eigenfaces.npz").read_bytes()
    assert main(["immune", "--guide", "none.onnx", "--run", "run", "--pin", "other"]) == 1
    assert "run holds a run already: continue it with --resume" in capsys.readouterr().err
    with torch.no_grad():
        immune.space.luma.mean += 1
    describe_denoiser("run", immune)  # as --resume does
    assert Path("run/eigenfaces.npz").read_bytes() == before
    Path("run/checkpoint.pt").unlink()
    describe_denoiser("run", immune)
    assert Path("run/eigenfaces.npz").read_bytes() != before


def test_runs_are_told_apart(immune: ImmuneNet, tmp_path: Path) -> None:
    describe_denoiser(tmp_path, immune)
    torch.save({"parts": {"net": immune.state_dict()}}, tmp_path / "checkpoint.pt")
    again = open_run(tmp_path)
    assert isinstance(again, ImmuneNet)
    assert torch.equal(again.pin.evidence, immune.pin.evidence)
    with pytest.raises(DataError, match="expected a run of uddn, got one of immune"):
        load_uddn(str(tmp_path))
    with pytest.raises(DataError, match="expected a run of pin, got one of immune"):
        load_pin(str(tmp_path))
    with pytest.raises(DataError, match="expected a run of"):
        describe_run(tmp_path, "UDDN", size="light")
