"""The whole way on little data: eigenfaces, attacks, PIN, export, choice, recognizer."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from facepurify import Purifier
from facepurify.bench.defences import PurifierDefence
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError, OptionError
from facepurify.train import export
from facepurify.train.__main__ import main
from facepurify.train.attack_pack import AttackPack, make_pack
from facepurify.train.basis import Basis
from facepurify.train.commands.options import recognizer_of
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.fit_pin import PinRecipe, fit_pin
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.loop import load_run
from facepurify.train.pin import PinNet, expected_loss, sparsity_weight
from facepurify.weights import read_manifest
from tests.bench.conftest import recognizer_model as other_model


def test_attacks_stay_inside_their_strength_and_work(pack: AttackPack, guide: Recognizer) -> None:
    change = np.abs(pack.attacked.astype(int) - pack.clean).reshape(len(pack), -1).max(axis=1)
    assert np.all(change <= pack.strength)
    assert np.all(change > 0)
    before = pack.embeddings[0][0]
    after = guide.embed_numpy(pack.attacked / np.float32(255))
    assert float((before * after).sum(axis=1).mean()) < 0.99
    mirrored = guide.embed_numpy(pack.clean[:, :, :, ::-1] / np.float32(255))
    assert np.allclose(pack.embeddings[0][1], mirrored, atol=1e-5)


def test_a_pack_is_repeatable_and_loads(
    pack: AttackPack, faces: FaceSet, guide: Recognizer, kinds: dict[str, float], tmp_path: Path
) -> None:
    again = make_pack(faces, [guide, guide], 12, kinds=kinds, batch=4)
    assert np.array_equal(again.attacked, pack.attacked)
    pack.save(tmp_path / "pack.npz")
    loaded = AttackPack.load(tmp_path / "pack.npz")
    assert np.array_equal(loaded.attacked, pack.attacked)
    assert loaded.guides == pack.guides
    (tmp_path / "other.npz").write_bytes(b"no pack")
    with pytest.raises(DataError, match=r"expected a file written by .* attacks"):
        AttackPack.load(tmp_path / "other.npz")


def test_a_pack_takes_no_held_out_face(pack: AttackPack, faces: FaceSet) -> None:
    held_out = {image.tobytes() for image in as_bytes(faces.images[faces.validation])}
    assert not held_out & {image.tobytes() for image in pack.clean}
    with pytest.raises(DataError, match="training faces"):
        make_pack(faces, [], 12)


def as_bytes(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("gradient", ["expected", "policy"])
def test_training_lowers_the_loss(
    gradient: str, basis: Basis, pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = PinNet(basis)
    recipe = PinRecipe(
        steps=40,
        batch=6,
        sparsity=4,
        reconstruction=1.0,
        identity=0.0,
        rate=3e-3,
        gradient=gradient,
    )

    def loss() -> float:
        clean, attacked = (torch.from_numpy(a / 255).float() for a in (pack.clean, pack.attacked))
        with torch.no_grad():
            noisy, probability, _ = net.eval()(attacked)
            price = sparsity_weight(net.space.eigenvalues, recipe.sparsity)
            target = net.space.encode(clean)
            return float(expected_loss(probability, target, noisy, price, recipe.harm).mean())

    before = loss()
    fit_pin(net, pack, [guide, guide], recipe, tmp_path / "run")
    assert loss() < 0.95 * before
    assert (tmp_path / "run" / "curve.png").stat().st_size > 5000


def test_a_recipe_and_guides_are_checked(
    basis: Basis, pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    for wrong, message in (
        ({"gradient": "guess"}, "expected gradient"),
        ({"clean": 0.6, "noisy": 0.6}, "clean, noisy of 1 together"),
        ({"recompressed": 1.5}, "expected recompressed from 0 to 1"),
    ):
        with pytest.raises(OptionError, match=message):
            PinRecipe(**wrong)
    others = replace(pack, guides=("another",) * len(pack.guides))
    with pytest.raises(OptionError, match="expected one of the pack's guides"):
        fit_pin(PinNet(basis), others, [guide], PinRecipe(), tmp_path / "run")


def test_a_pack_knows_its_guides_by_what_they_see(
    pack: AttackPack, guide: Recognizer, shipped: Recognizer, tmp_path: Path
) -> None:
    assert pack.index(guide) == 0
    onnx.save(other_model(5), tmp_path / "guide.onnx")
    retrained, longer = Recognizer.from_onnx(tmp_path / "guide.onnx"), copy.copy(shipped)
    longer.name = guide.name
    assert (retrained.name, retrained.dim) == (guide.name, guide.dim)
    for another in (retrained, longer):
        with pytest.raises(OptionError, match="got another recognizer of that name"):
            pack.index(another)


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--run", "none"],
        ["recognizer", "--teacher", "none.onnx"],
        ["mter", "--recognizer", "none.onnx"],
    ],
)
def test_what_cannot_be_published_is_not_begun(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--data", "none", "--publish", "models", "--licence", "MIT"]) == 1
    assert "expected --training-data and --licence" in capsys.readouterr().err


def test_commands_from_faces_to_a_purifier(
    folders: list[Path], guide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data", *map(str, folders), "--cache", "cache"]
    guides = ["--guide", str(guide_file)]
    sizes = ["--luma", "20", "--chroma", "10"]
    origin = ["--training-data", "random faces", "--licence", "none"]
    again = ["--start", "runs/pin", "--run", "runs/more"]
    steps = (
        ["eigenfaces", *data, *sizes, "--luma-zone", "90", "--chroma-zone", "30"],
        ["attacks", *data, *guides, "--count", "8"],
        ["pin", *guides, *sizes, "--steps", "3", "--batch", "4", "--sparsity", "10"],
        ["pin", *guides, *sizes, *again, "--steps", "2", "--sparsity", "10"],
        ["project", *sizes, "-o", "fixed.onnx"],
        ["export", *data, "--run", "runs/more", "--publish", "models", *origin],
    )
    for arguments in steps:
        assert main(arguments) == 0, arguments
    entry = read_manifest(Path("models")).models["pin"]
    assert entry.sha256 == hashlib.sha256(Path("pin.onnx").read_bytes()).hexdigest()
    assert entry.path.read_bytes() == Path("pin.onnx").read_bytes()
    assert entry.score_threshold is not None
    assert 0 < entry.score_threshold < 1
    exported = Path("pin.onnx").read_bytes()
    assert not any(trace in exported for trace in (b"site-packages", b"facepurify/train", b"File "))
    purifier = Purifier("pin.onnx")
    assert purifier.info.masks == ("expected", "fixed", "sampled", "threshold")
    assert purifier.info.K == 30

    space = ImmuneSpace(Basis.load("eigenfaces.npz").first(20, 10))
    image = np.full((1, 3, 112, 112), 0.4, np.float32)
    projected = space.decode(space.encode(torch.from_numpy(image))).numpy()
    assert np.allclose(Purifier("fixed.onnx").purify_canonical(image).images, projected, atol=2e-3)

    # The exported graph is the network, in every mask.
    net = PinNet(Basis.load("eigenfaces.npz").first(20, 10))
    load_run(net, "runs/more")
    x = np.random.default_rng(0).random((3, 3, 112, 112), dtype=np.float32)
    with torch.no_grad():
        coefficients, probability, _ = net(torch.from_numpy(x))
        mean = probability.mean(dim=1, keepdim=True)
        expected = net.space.decode(probability * coefficients).numpy()
        fixed = net.space.decode((probability > mean) * coefficients).numpy()
    assert np.allclose(purifier.purify_canonical(x).images, expected, atol=2e-3)
    assert np.allclose(
        Purifier("pin.onnx", mask="fixed").purify_canonical(x).images, fixed, atol=2e-3
    )
    sampled = Purifier("pin.onnx", mask="sampled")
    one, two = (sampled.purify_canonical(x, seed=seed).images for seed in (1, 2))
    assert not np.allclose(one, two)
    assert np.array_equal(one, sampled.purify_canonical(x, seed=1).images)


def test_no_set_raises_more_alarms_than_one_in_a_hundred(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "with_history", lambda clean, attacked, _: (clean, attacked))
    levels = np.concatenate([np.repeat(np.arange(1, 101), 4), np.arange(101, 201)])
    images = np.broadcast_to(levels.astype(np.uint8)[:, None, None, None], (500, 112, 112, 3))
    sets = np.repeat(["dark", "bright"], (400, 100))
    names = tuple(f"{each}/{i:03}.png" for i, each in enumerate(sets))
    faces = FaceSet(images, names, np.ones(500, bool), {}, "")
    threshold = export.calibrate(tiny_model, faces)  # its score is an image's mean
    assert Purifier(tiny_model).info.score_threshold == threshold
    alarms = np.array(Purifier(tiny_model).purify_canonical(as_batch(images)).score) >= threshold
    assert alarms[sets == "bright"].sum() == 1  # of 500 faces as one set five would raise it
    assert not alarms[sets == "dark"].any()


def test_choice_is_drawn_from_held_out_faces(
    folders: list[Path], guide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import facepurify.train.choose as module

    monkeypatch.setattr(module, "FIXED", ((10, 5), (20, 10)))
    monkeypatch.chdir(tmp_path)
    data = ["--data", *map(str, folders), "--cache", "cache"]
    sizes = ["--luma", "20", "--chroma", "10"]
    assert main(["eigenfaces", *data, *sizes, "--luma-zone", "90", "--chroma-zone", "30"]) == 0
    choice = ["choose", *data, "--guide", str(guide_file), "--pairs", "20", "--attacked", "6"]
    assert main([*choice, "--model", "pin", "--out", "alone"]) == 0
    assert list(json.loads(Path("alone/choice.json").read_text())) == ["none", "pin"]
    seen: list[np.ndarray] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            PurifierDefence, "purify", lambda self, images, seed=0: seen.append(images) or images
        )
        delivered = ["--model", "pin", "--delivered", "bits1", "--out", "delivered"]
        assert main([*choice, *delivered]) == 0
        assert len(seen) == 17  # clean probes, and eight attacks of two goals
        assert all(set(np.unique(images)) <= {0.0, 1.0} for images in seen)  # a bit a pixel
        seen.clear()
        assert main([*choice, "--model", "pin", "--eps", "3", "--out", "weak"]) == 0
        assert abs(seen[1] - seen[0][:6]).max() * 255 == pytest.approx(3, abs=1e-3)
    assert main([*choice, "--eigenfaces", "eigenfaces.npz", "--adaptive", "2"]) == 0
    results = json.loads(Path("choice/choice.json").read_text())
    assert list(results) == ["none", "fixed 10 + 5", "fixed 20 + 10"]
    kinds = (
        "fgsm", "pgd20", "blocks20", "graded20", "grey20", "grey_blocks20", "stripes20",
        "reversed20", "adaptive",
    )  # fmt: skip
    for row in results.values():
        assert set(row["guide"]) == {
            "genuine rejected",
            *(f"{attack} {goal}" for attack in kinds for goal in ("dodging", "impersonation")),
        }
    assert Path("choice/choice.png").stat().st_size > 5000
    assert main([*choice, "--adaptive", "-1"]) == 1


def test_a_missing_file_is_one_clear_line(
    guide_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["pin", "--guide", str(guide_file)]) == 1
    assert "facepurify.train eigenfaces" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--seed", "-1"), ("--threads", "0")])
def test_a_wrong_number_is_one_clear_line(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pin", "--guide", "none.onnx", option, value]) == 1
    assert f"got {value}" in capsys.readouterr().err


def test_a_commands_threads_are_those_of_its_recognizers(guide_file: Path) -> None:
    recognizer = recognizer_of(argparse.Namespace(threads=1), str(guide_file))
    assert recognizer._session.get_session_options().intra_op_num_threads == 1


def test_a_recognizer_is_distilled_and_exported(
    folders: list[Path], guide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data", *map(str, folders), "--cache", "cache"]
    train = ["recognizer", *data, "--teacher", str(guide_file), "--steps", "3", "--batch", "8"]
    assert main(train) == 0
    session = onnxruntime.InferenceSession("recognizer.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 112, 112]
    recognizer = Recognizer.from_onnx("recognizer.onnx")
    assert recognizer.dim == 16
    assert recognizer.embed_numpy(as_batch(np.zeros((2, 112, 112, 3), np.uint8))).shape == (2, 16)
    assert Path("recognizer.onnx").stat().st_size < 5_000_000
