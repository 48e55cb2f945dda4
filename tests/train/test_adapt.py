"""Recovering a shipped denoiser, and fitting it to another recognizer."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facepurify import Purifier
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import (
    DataError,
    ModelContractError,
    OptionError,
    OutputError,
    OutputExistsError,
)
from facepurify.train import adapt as adapt_module
from facepurify.train.__main__ import main
from facepurify.train.adapt import AdaptRecipe, adapt
from facepurify.train.attack_pack import KINDS, AttackPack
from facepurify.train.export import calibrate, export_purifier
from facepurify.train.faces import FaceSet
from facepurify.train.overshoot import CHOSEN, Pixels
from facepurify.train.quantise import quantise
from facepurify.train.recover import recover_uddn
from facepurify.train.uddn import UddnNet


def trained(size: str = "light") -> UddnNet:
    """A network whose every weight and statistic is its own."""
    torch.manual_seed(0)
    net = UddnNet(size).eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    nn.init.normal_(net.unet.noise.weight, std=0.02)
    return net


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    export_purifier(trained(), path)
    return path


@pytest.mark.parametrize("size", ["light", "published"])
def test_an_exported_denoiser_comes_back_and_can_learn(size: str, tmp_path: Path) -> None:
    net = trained(size)
    export_purifier(net, tmp_path / "net.onnx")
    again = recover_uddn((tmp_path / "net.onnx").read_bytes())
    x = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for one, other in zip(again(x), net(x), strict=True):
            assert torch.allclose(one, other, atol=1e-4)
        assert not torch.allclose(net.purify(x), x, atol=1e-2)
    assert again.size == size
    again.purify(x).mean().backward()
    gradients = [parameter.grad for name, parameter in again.named_parameters() if "unet" in name]
    assert all(gradient is not None for gradient in gradients)


def test_one_of_half_precision_comes_back(tmp_path: Path) -> None:
    net = trained()
    export_purifier(net, tmp_path / "net.onnx")
    quantise(tmp_path / "net.onnx", "float16", tmp_path / "half.onnx")
    again = recover_uddn((tmp_path / "half.onnx").read_bytes())
    x = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(again.purify(x), net.purify(x), atol=4e-3)


def test_another_model_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelContractError, match="expected a denoiser that"):
        recover_uddn(tiny_model.read_bytes())


def test_the_command_adapts_and_measures(
    folders: list[Path],
    guide_file: Path,
    guide: Recognizer,
    faces: FaceSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    export_purifier(trained(), "shipped.onnx")
    command = [
        "adapt", "--data", *map(str, folders), "--cache", "cache", "--recognizer", str(guide_file),
        "--model", "shipped.onnx", "--minutes", "0.05", "--batch", "2", "--pairs", "6",
        "--attacked", "3", "-o", "mine.onnx",
    ]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert re.search(r"genuine rejected \| fgsm dodging .* pgd10 impersonation", printed)
    rows = [line.split(" |")[0].strip() for line in printed.splitlines()[1:7]]
    whens = ["none", "before", "after"]
    assert rows == [row for when in whens for row in (when, f"{when}, as jpeg90")]
    x = np.random.default_rng(0).random((1, 3, 112, 112), np.float32)
    before, after = (
        Purifier(name).purify_canonical(x).images for name in ("shipped.onnx", "mine.onnx")
    )
    assert not np.array_equal(before, after)
    assert 0 < (Purifier("mine.onnx").info.score_threshold or 0) < 1
    run = sorted(path.name for path in Path("runs/adapt").iterdir())
    assert run == ["checkpoint.pt", "curve.png", "log.csv", "model.json"]
    again = ["export", *command[1:6], "--run", "runs/adapt", "--overshoot", str(CHOSEN)]
    assert main([*again, "-o", "again.onnx"]) == 0
    assert Path("again.onnx").read_bytes() == Path("mine.onnx").read_bytes()
    # The run is there already, which is found before anything is read.
    assert main([*command, "--recognizer", "none.onnx"]) == 1
    assert "runs/adapt holds a run already: name another folder" in capsys.readouterr().err
    with pytest.raises(OutputExistsError):
        adapt(guide, faces, "none.onnx", AdaptRecipe(), "runs/adapt", "mine.onnx")
    assert main([*command, "--run", "runs/b", "-o", "nowhere/mine.onnx"]) == 1
    assert "expected a folder to write mine.onnx into" in capsys.readouterr().err
    with pytest.raises(OutputError):
        adapt(guide, faces, "none.onnx", AdaptRecipe(), "runs/b", "nowhere/mine.onnx")


def test_what_was_written_is_judged_whatever_its_name(
    exported: Path, guide: Recognizer, faces: FaceSet, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    judged: list[str] = []

    def on_arrays(purifier: Purifier):
        judged.append(purifier.info.sha256)
        return lambda images: images

    monkeypatch.setattr(adapt_module, "on_arrays", on_arrays)
    monkeypatch.setattr(adapt_module, "_seconds_a_step", lambda *_: 1.0)
    monkeypatch.setattr(adapt_module, "fit_uddn", lambda *_, **__: None)
    recipe = AdaptRecipe(minutes=0.01, batch=2, pairs=4, attacked=2)
    adapt(guide, faces, str(exported), recipe, "run", "uddn")
    files = exported, Path("uddn")
    assert judged == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    x = 0.45 + 0.1 * np.random.default_rng(0).random((1, 3, 112, 112), np.float32)
    once, over = (Purifier(path).purify_canonical(x).images for path in files)
    assert 0 < once.min() < once.max() < 1  # so that it shows all that was found
    wanted = x + Pixels(1, recipe.overshoot)(torch.from_numpy(once - x)).numpy()
    assert np.allclose(over, wanted.clip(0, 1), atol=1e-4)
    shutil.copy("uddn", "other.onnx")
    assert calibrate("uddn", faces) == calibrate("other.onnx", faces)


def test_only_steps_count_as_steps(
    exported: Path, pack: AttackPack, guide: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def fit_uddn(net, pack, guides, recipe, folder):
        nonlocal now
        optimiser = torch.optim.SGD(net.parameters())
        now += 90  # to get ready
        for _ in range(recipe.steps):
            now += 4 if recipe.fresh else 2
            optimiser.step()
        now += 30  # the checkpoint and the curve

    monkeypatch.setattr(adapt_module, "fit_uddn", fit_uddn)
    monkeypatch.setattr(adapt_module.time, "monotonic", lambda: now)
    settings = AdaptRecipe(fresh=0.25).settings()
    assert adapt_module._seconds_a_step(exported.read_bytes(), pack, guide, settings) == 2.5


def test_a_few_steps_are_timed(exported: Path, pack: AttackPack, guide: Recognizer) -> None:
    settings = AdaptRecipe(batch=2).settings()
    assert 0 < adapt_module._seconds_a_step(exported.read_bytes(), pack, guide, settings) < 60


def test_its_packs_hold_every_kind() -> None:
    assert adapt_module.MIX.keys() == KINDS.keys()
    assert sum(adapt_module.MIX.values()) == pytest.approx(1)


def test_nothing_is_calibrated_without_held_out_faces(faces: FaceSet, tmp_path: Path) -> None:
    nobody = replace(faces, held_out=np.zeros(len(faces), bool))
    with pytest.raises(DataError, match="some are held out"):
        calibrate(tmp_path / "none.onnx", nobody)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minutes": 0}, "expected minutes"),
        ({"rate": -1e-3}, "expected minutes and rate"),
        ({"attacked": 0}, "expected a batch of 2 or more, pairs and attacked"),
        ({"batch": 1}, "expected a batch of 2 or more"),
        ({"fresh": 1.5}, "expected fresh from 0 to 1"),
        ({"recompressed": -0.1}, "expected recompressed from 0 to 1"),
        ({"fresh": 0.0, "rehearse": 2}, "above 0 to redraw or rehearse"),
    ],
)
def test_recipes_that_mean_nothing(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        AdaptRecipe(**wrong)
