"""MTER's parts: ArcFace, partners of another identity, exploit, triplet, and the whole command."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from facepurify.errors import DataError, ModelContractError, ModelNotFoundError, OptionError
from facepurify.train.__main__ import main
from facepurify.train.arcface import ArcFace
from facepurify.train.facenet import FaceNet
from facepurify.train.faces import FaceSet
from facepurify.train.mter import MterRecipe, across, exploit, harden, triplet
from facepurify.train.recognizer import export_recognizer, load_net, normalised


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.normalize(draw)


def test_arcface_is_the_published_formula() -> None:
    head = ArcFace(8, 5, scale=64, margin=0.5).double()
    embedding, label = unit(6, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    weight = (head.weight / head.weight.norm(dim=1, keepdim=True)).detach().numpy()
    losses = []
    for x, own in zip(embedding.numpy(), label.tolist(), strict=True):
        logits = 64 * (weight @ x)
        logits[own] = 64 * math.cos(math.acos(weight[own] @ x) + 0.5)
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[own])
    with torch.no_grad():
        assert float(head(embedding, label)) == pytest.approx(np.mean(losses), rel=1e-9)


def test_arcface_leaves_faces_without_identity_out() -> None:
    head = ArcFace(8, 3).double()
    embedding = unit(4, 8).requires_grad_()
    some = head(embedding, torch.tensor([0, -1, 2, -1]))
    known = head(embedding[::2], torch.tensor([0, 2]))
    assert float(some.detach()) == pytest.approx(float(known.detach()))
    none = head(embedding, torch.full((4,), -1))
    # The weights have a gradient too, or one process would have less to average than another.
    gradients = torch.autograd.grad(none, [embedding, head.weight])
    assert float(none.detach()) == 0
    assert not any(gradient.any() for gradient in gradients)


def test_arcface_has_a_finite_gradient_on_its_own_centre() -> None:
    head = ArcFace(8, 2)
    embedding = nn.functional.normalize(head.weight.detach()).requires_grad_()
    head(embedding, torch.tensor([0, 1])).backward()
    assert bool(embedding.grad.isfinite().all())  # type: ignore[union-attr]
    opposite = (-nn.functional.normalize(head.weight.detach())).requires_grad_()
    head(opposite, torch.tensor([0, 1])).backward()
    assert bool(opposite.grad.isfinite().all())  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(20))
def test_partners_have_another_identity(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 0, 0, 0, 1, -1, -1, 2])
    partner = across(labels, generator)
    own = torch.arange(len(labels))
    assert not bool((partner == own).any())
    assert not bool(((labels[partner] == labels) & (labels >= 0)).any())


def test_one_identity_has_no_partner() -> None:
    with pytest.raises(OptionError, match="two identities"):
        across(torch.tensor([3, 3, 3]), torch.Generator().manual_seed(0))


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = unit(4, 3 * 4 * 4, seed=5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x.flatten(1) @ self.weight.T)


def test_exploit_nears_the_target_within_its_reach() -> None:
    embed = _Linear()
    source = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    target = unit(5, 4, seed=2)
    before = (embed(source) * target).sum(1)
    one = exploit(embed, source, target, rounds=1, step=4, stop=0.1)
    ten = exploit(embed, source, target, rounds=10, step=4, stop=0.1)
    assert bool(((embed(one) * target).sum(1) > before).all())
    assert bool(((embed(ten) * target).sum(1) > (embed(one) * target).sum(1)).all())
    assert float((ten - source).abs().max()) <= 10 * 4 / 127.5 + 1e-9
    assert float(ten.abs().max()) <= 1


def test_exploit_stops_at_the_target() -> None:
    embed = _Linear()
    source = torch.rand(2, 3, 4, 4).double() * 2 - 1
    target = embed(source)
    assert torch.equal(exploit(embed, source, target, rounds=3, step=1, stop=0.1), source)


def test_triplet_is_the_published_formula() -> None:
    attacked, source, target = (unit(6, 8, seed=seed) for seed in range(3))
    expected = np.maximum(
        np.linalg.norm(attacked - source, axis=1) - np.linalg.norm(attacked - target, axis=1) + 0.2,
        0,
    )
    assert np.allclose(triplet(attacked, source, target, 0.2), expected, atol=1e-7)
    assert np.allclose(triplet(source, source, target, 0.2).max(), 0, atol=1e-3)


@pytest.mark.parametrize("wrong", [{"fix": "hope"}, {"rounds": 0}, {"purified": 1.5}])
def test_a_wrong_recipe_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="expected"):
        MterRecipe(**wrong)  # type: ignore[arg-type]


def test_an_exported_recognizer_can_be_trained_again(faces: FaceSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = FaceNet(16, (8, 12, 16), (1, 1, 1)).eval()
    export_recognizer(net, tmp_path / "small.onnx")
    again, dim = load_net(tmp_path / "small.onnx", faces)
    assert dim == 16
    x = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(again(x), net(x), atol=1e-4)
    assert all(weight.requires_grad for weight in again.parameters())
    assert sum(weight.numel() for weight in again.parameters()) > 1000
    # What was trained can be exported in its turn.
    assert export_recognizer(again, tmp_path / "again.onnx") < 1e-3


def test_what_our_own_recipe_exported_gets_its_batch_norms_back(
    faces: FaceSet, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = FaceNet(16)
    with torch.no_grad():  # running averages as of a network that was trained
        for images in faces.batches(faces.training, 16):
            net(normalised(torch.from_numpy(images)))
    net.eval()
    export_recognizer(net, tmp_path / "own.onnx")
    again, dim = load_net(tmp_path / "own.onnx", faces)
    assert dim == 16
    assert again.state_dict().keys() == net.state_dict().keys()
    x = normalised(torch.from_numpy(faces.images[faces.validation]))
    with torch.no_grad():
        assert torch.allclose(again(x), net(x), atol=1e-4)
        trained_on = normalised(torch.from_numpy(faces.images[faces.training]))
        expected = again(trained_on)
        # As training measures them anew, nothing moves: the statistics are those of the faces.
        assert torch.allclose(again.train()(trained_on), expected, atol=1e-3)


def test_a_recognizer_that_is_not_there_or_none(faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="onnx file"):
        load_net(tmp_path / "none.onnx", faces)
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(ModelContractError, match="an ONNX file"):
        load_net(tmp_path / "noise.onnx", faces)


def test_a_run_tells_the_length_of_its_embeddings(faces: FaceSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = FaceNet(16).eval()
    torch.save({"parts": {"net": net.state_dict()}}, tmp_path / "checkpoint.pt")
    again, dim = load_net(tmp_path, faces)
    assert dim == 16
    x = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


def test_a_folder_without_a_run_is_refused(faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="checkpoint"):
        load_net(tmp_path, faces)
    torch.save({"parts": {"net": nn.Linear(2, 1).state_dict()}}, tmp_path / "checkpoint.pt")
    with pytest.raises(DataError, match="checkpoint of this very run"):
        load_net(tmp_path, faces)


@pytest.mark.parametrize("variant", [(), ("--fix", "adversarial", "--rounds", "1"), ("teacher",)])
def test_a_recognizer_is_hardened(
    variant: tuple[str, ...], folders: list[Path], guide_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if variant == ("teacher",):
        variant = ("--teacher", str(guide_file), "--teaching", "1", "--rounds", "2")
    train = [
        "mter", "--data", *map(str, folders), "--cache", "cache", "--recognizer", str(guide_file),
        "--batch", "6", *variant,
    ]  # fmt: skip
    assert main([*train, "--steps", "2"]) == 0
    said = capsys.readouterr().out
    assert "feature_target10 impersonation" in said
    session = onnxruntime.InferenceSession(
        "recognizer-mter.onnx", providers=["CPUExecutionProvider"]
    )
    assert session.get_outputs()[0].shape[1] == 16
    log = Path("runs/mter/log.csv").read_text().splitlines()
    assert len(log) == 3
    assert main([*train, "--steps", "3"]) == 1
    assert "--resume" in capsys.readouterr().err


def test_a_recognizer_is_hardened_behind_a_purifier(
    folders: list[Path], guide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = [
        "mter", "--data", *map(str, folders), "--cache", "cache", "--recognizer", str(guide_file),
        "--batch", "6", "--steps", "1", "--rounds", "1", "--purifier", "pin",
    ]  # fmt: skip
    assert main(train) == 0


@pytest.mark.parametrize(("share", "expected"), [(0.0, {0}), (1.0, {3}), (0.5, {0, 3})])
def test_a_share_of_the_steps_goes_through_the_purifier(
    share: float, expected: set[int], faces: FaceSet, tmp_path: Path
) -> None:
    calls: list[int] = []

    class Net(FaceNet):
        def train(self, mode: bool = True) -> Net:
            if not mode:  # a step begins
                calls.append(0)
            return super().train(mode)

    def purify(images: torch.Tensor) -> torch.Tensor:
        assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1
        calls[-1] += 1
        return images

    recipe = MterRecipe(steps=6, batch=6, rounds=2, purified=share)
    harden(Net(16, (8, 8, 8), (1, 1, 1)), 16, faces, recipe, tmp_path, purify=purify)
    assert set(calls[:6]) == expected  # two rounds, and once to learn on


@pytest.mark.parametrize("settled", [False, True])
def test_what_learns_is_what_was_attacked_if_settled(
    settled: bool, faces: FaceSet, tmp_path: Path
) -> None:
    modes: list[bool] = []

    class Net(FaceNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append(self.training)
            return super().forward(x)

    net = Net(16, (8, 8, 8), (1, 1, 1))
    before = {name: value.clone() for name, value in net.named_buffers()}
    harden(net, 16, faces, MterRecipe(steps=2, batch=6, rounds=2, settled=settled), tmp_path)
    # The goal, two rounds, and once to learn on.
    assert modes == [False, False, False, not settled] * 2
    same = [torch.equal(value, before[name]) for name, value in net.named_buffers()]
    assert all(same) if settled else not any(same)


def test_a_share_of_purified_steps_needs_a_purifier(faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="expected a purifier"):
        harden(FaceNet(16), 16, faces, MterRecipe(purified=0.5), tmp_path)


def test_a_hardening_goes_on_with_its_own_purifier_only(faces: FaceSet, tmp_path: Path) -> None:
    recipe = MterRecipe(steps=2, batch=4, rounds=1)

    def go(purifier: str, *, resume: bool = True) -> None:
        harden(
            FaceNet(16), 16, faces, recipe, tmp_path, resume=resume,
            purify=lambda x: x, sources={"purifier": purifier},
        )  # fmt: skip

    go("pin", resume=False)
    go("pin")
    with pytest.raises(OptionError, match="got another purifier: "):
        go("immune")
    with pytest.raises(OptionError, match="steps of 1 or more and a rate above 0"):
        harden(FaceNet(16), 16, faces, replace(recipe, rate=-1.0), tmp_path / "other")


@pytest.mark.parametrize("device", ["nope", "cuda:99"])
def test_a_device_that_is_not_there_is_wrong_usage(
    device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["mter", "--data", "none", "--recognizer", "none", "--device", device])
    assert f"expected a device, got {device}" in capsys.readouterr().err


def test_teaching_without_a_teacher_is_refused(
    folders: list[Path], guide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    train = ["mter", "--data", *map(str, folders), "--cache", "cache"]
    assert main([*train, "--recognizer", str(guide_file), "--teaching", "1"]) == 1
    assert "teacher" in capsys.readouterr().err


def test_a_graph_with_its_own_normalisation_is_not_trained(guide_file: Path) -> None:
    from facepurify.bench.recognizers import Recognizer

    recognizer = Recognizer.from_onnx(guide_file)
    recognizer._mean = 0.0
    with pytest.raises(ModelContractError, match="normalisation"):
        recognizer.trainable()
