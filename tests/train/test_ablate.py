"""The ablation: arms that differ in one thing, a judge that guides none, a study that goes on."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch

from facepurify.bench.attacks import FGSM
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError, OptionError
from facepurify.train import ablate as ablate_module
from facepurify.train.__main__ import main
from facepurify.train.ablate import ARMS, Arm, ablate, arms_named, render_ablation
from facepurify.train.attack_pack import make_pack
from facepurify.train.basis import Basis
from facepurify.train.choose import Trial, held_out_trial
from facepurify.train.export import export_purifier
from facepurify.train.faces import FaceSet
from facepurify.train.fit_uddn import UddnRecipe
from facepurify.train.immune import ImmuneNet
from facepurify.train.pin import PinNet
from facepurify.train.runs import checksum_of
from facepurify.train.uddn import UddnNet
from tests.bench.conftest import recognizer_model as other_model

TINY = UddnRecipe(steps=1, batch=2)


@pytest.fixture(scope="module")
def judge_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge") / "judge.onnx"
    onnx.save(other_model(5), path)
    return path


@pytest.fixture(scope="module")
def trial(faces: FaceSet, judge_file: Path) -> Trial:
    judge = Recognizer.from_onnx(judge_file)
    return held_out_trial(faces, judge, pairs=6, attacked=2, attacks=(FGSM(),))


def test_every_arm_is_a_recipe_and_changes_something() -> None:
    base = UddnRecipe(matched=True)
    assert dataclasses.replace(ARMS[0], name="") == Arm("")
    for arm in ARMS[1:]:
        assert arm.recipe(base) != base or dataclasses.replace(arm, name="", changes={}) != Arm("")
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    assert [arm.name for arm in arms_named(["PIN after", "one guide"])] == [
        "base",
        "one guide",
        "PIN after",
    ]
    assert arms_named([]) == ARMS
    with pytest.raises(OptionError, match="got magic"):
        arms_named(["magic"])


def test_the_stage_stands_where_the_arm_says(basis: Basis) -> None:
    torch.manual_seed(0)
    nets = {stage: ablate_module._net(stage, "light", basis) for stage in ("", "output", "input")}
    assert type(nets[""]) is UddnNet
    assert isinstance(nets["output"], ImmuneNet)
    first = nets["input"].eval()
    torch.nn.init.constant_(first.unet.noise.bias, 0.1)
    x = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        assert torch.allclose(first.purify(x), (first.pin.purify(x) + 0.1).clamp(0, 1), atol=1e-6)


def test_finished_arms_are_kept(
    faces: FaceSet,
    guide: Recognizer,
    trial: Trial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[tuple[UddnRecipe, int, int, int]] = []
    fit = ablate_module.fit_uddn

    def fit_uddn(net, pack, guides, recipe, folder, **more):
        trained.append((recipe, len(guides), len(pack.guides), len(pack)))
        fit(net, pack, guides, recipe, folder, **more)

    monkeypatch.setattr(ablate_module, "fit_uddn", fit_uddn)
    guides = [guide, guide]
    arms = (
        Arm("base"),
        Arm("one guide", guides=1),
        Arm("its loss only", guides=1, attacks_on_all=True),
        Arm("half the faces", every=2),
    )
    first = ablate(arms[:1], TINY, faces, guides, trial, tmp_path, count=4)
    assert list(first["arms"]) == ["none", "base"]
    both = ablate(arms, TINY, faces, guides, trial, tmp_path, count=4)
    assert both["arms"]["base"] == first["arms"]["base"]
    assert trained == [(TINY, 2, 2, 4), (TINY, 1, 1, 4), (TINY, 1, 2, 4), (TINY, 2, 2, 2)]
    assert json.loads((tmp_path / "ablation.json").read_text()) == both
    assert (tmp_path / "ablation.md").read_text() == render_ablation(both)
    assert (tmp_path / "ablation.png").stat().st_size > 5000
    none = both["arms"]["none"]["judged"]
    assert none == trial.judge(lambda images: images)
    assert set(both["arms"]["base"]["judged"]) == set(none)
    other = Arm("base", {"band": 0.0})
    with pytest.raises(DataError, match="expected the arm 'base' of"):
        ablate([other], TINY, faces, guides, trial, tmp_path, count=4)
    with pytest.raises(DataError, match="expected a study of"):
        ablate(arms, TINY, faces, guides, trial, tmp_path, count=5)
    elsewhere = dataclasses.replace(faces, digest="others")
    with pytest.raises(DataError, match="expected a study of"):
        ablate(arms, TINY, elsewhere, guides, trial, tmp_path, count=4)
    retrained = copy.copy(trial.recognizer)
    retrained.sha256 = "others"
    judge = dataclasses.replace(trial, recognizer=retrained)
    with pytest.raises(DataError, match="expected a study of"):
        ablate(arms, TINY, faces, guides, judge, tmp_path, count=4)
    with pytest.raises(DataError, match="expected a study of"):
        ablate(arms, TINY, faces, guides, trial, tmp_path, count=4, sources={"gnr": "others"})


def test_attacks_on_another_guide_of_the_same_name(
    faces: FaceSet, guide: Recognizer, trial: Trial, tmp_path: Path
) -> None:
    old, new = copy.copy(trial.recognizer), copy.copy(guide)
    old.name = new.name = "other"
    make_pack(faces, [guide, old], 4).save(tmp_path / "attacks2.npz")
    arm = Arm("its loss only", guides=1, attacks_on_all=True)
    with pytest.raises(OptionError, match="got another recognizer of that name"):
        ablate([arm], TINY, faces, [guide, new], trial, tmp_path, count=4)


def test_arms_of_the_immune_network(
    faces: FaceSet, guide: Recognizer, trial: Trial, basis: Basis, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trained: list[type] = []
    fit = ablate_module.fit_uddn

    def fit_uddn(net, *rest, **more):
        trained.append(type(net))
        fit(net, *rest, **more)

    monkeypatch.setattr(ablate_module, "fit_uddn", fit_uddn)
    arms = [Arm("base"), Arm("alone", stage=""), Arm("before", stage="input")]
    study = ablate(arms, TINY, faces, [guide], trial, tmp_path, count=4, net="immune", space=basis)
    assert trained == [ImmuneNet, UddnNet, ablate_module._PinFirst]
    assert [row["changes"].get("stage") for row in study["arms"].values()] == [
        None, "output", "", "input",
    ]  # fmt: skip


def test_arms_that_cannot_be(
    faces: FaceSet, guide: Recognizer, trial: Trial, basis: Basis, tmp_path: Path
) -> None:
    for arm, what in (
        (Arm("one guide", guides=1), "more than 1 guides"),
        (Arm("after", stage="output"), "a PIN"),
        (Arm("drawn", {"generated": 0.5}), "a GNR run"),
        (Arm("as ever", {"matched": False}), "a base that it differs from"),
    ):
        with pytest.raises(OptionError, match=what):
            ablate([arm], TINY, faces, [guide], trial, tmp_path, count=4)
    leaning = dataclasses.replace(TINY, lean=1.0)
    with pytest.raises(OptionError, match="a base that it differs from for the arm 'leaning'"):
        ablate([Arm("leaning", {"lean": 1.0})], leaning, faces, [guide], trial, tmp_path, count=4)
    with pytest.raises(OptionError, match="a network of uddn, immune, got 'pin'"):
        ablate([Arm("base")], TINY, faces, [guide], trial, tmp_path, count=4, net="pin")
    with pytest.raises(OptionError, match=r"a PIN \(--pin\) for the arm 'base'"):
        ablate([Arm("base")], TINY, faces, [guide], trial, tmp_path, count=4, net="immune")
    with pytest.raises(OptionError, match="a base without PIN behind it"):
        ablate(
            [Arm("after", stage="output")], TINY, faces, [guide], trial, tmp_path, count=4,
            net="immune", space=basis,
        )  # fmt: skip
    with pytest.raises(OptionError, match="guides no arm"):
        ablate([Arm("base")], TINY, faces, [guide, trial.recognizer], trial, tmp_path, count=4)


def test_the_table_by_hand() -> None:
    judged = {"genuine rejected": 0.07, "fgsm dodging": 0.5, "fgsm impersonation": 0.25}
    settings = {
        "guides": ["a", "b"], "judge": "c", "pairs": 10, "attacked": 4, "eps": 8.0, "faces": 9,
        "net": "uddn", "base": {"steps": 600, "batch": 32},
    }  # fmt: skip
    arms = {"none": {"seconds": 0.0, "judged": judged}, "base": {"seconds": 90.0, "judged": judged}}
    lines = render_ablation({"settings": settings, "arms": arms}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert cells[0] == ["arm", "genuine rejected", "fgsm", "minutes"]
    assert cells[3] == ["base", "7.0", "50.0 / 25.0", "1.5"]


def test_the_command(
    folders: list[Path],
    basis: Basis,
    guide_file: Path,
    judge_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("facepurify.train.commands.denoisers.JUDGED_ATTACKS", (FGSM(),))
    export_purifier(PinNet(basis).eval(), "pin.onnx")
    command = [
        "ablate", "--data", *map(str, folders), "--cache", "cache", "--guide", str(guide_file),
        "--judge", str(judge_file), "--arm", "PIN after", "--arm", "PIN before",
        "--pin", "pin.onnx", "--count", "4", "--pairs", "6", "--attacked", "2", "--steps", "1",
        "--batch", "2",
    ]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert rows[2:] == ["none", "base", "PIN after", "PIN before"]
    settings = json.loads(Path("ablation/ablation.json").read_text())["settings"]
    pin = hashlib.sha256(Path("pin.onnx").read_bytes()).hexdigest()
    assert settings["sources"] == {"pin": pin}
    shutil.copytree("ablation/arms/base", "gnr")
    checkpoint = hashlib.sha256(Path("gnr/checkpoint.pt").read_bytes()).hexdigest()
    assert checksum_of("gnr") == checkpoint
    with pytest.raises(DataError, match="expected a run with a checkpoint in"):
        checksum_of("cache")
    assert main(["ablate", *command[1:], "--judge", str(guide_file)]) == 1
    assert "guides no arm" in capsys.readouterr().err
