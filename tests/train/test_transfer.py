"""Transfer: the softened loss against its formula, and the four rows of the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError, OptionError
from facepurify.train.__main__ import main
from facepurify.train.ais import AisNet
from facepurify.train.basis import Basis
from facepurify.train.facenet import FaceNet
from facepurify.train.faces import FaceSet
from facepurify.train.runs import describe_run
from facepurify.train.transfer import TransferRecipe, softened_loss, teach_student, tune_teacher
from facepurify.train.uddn import UddnNet


def test_softened_loss_is_equation_6() -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 5, 4)) * 3

    def softmax(z: np.ndarray, temperature: float) -> np.ndarray:
        powers = np.exp(z / temperature)
        return powers / powers.sum(axis=1, keepdims=True)

    def divergence(temperature: float) -> float:
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        return float((p * np.log(p / q)).sum(axis=1).mean())

    loss = softened_loss(torch.tensor(teacher), torch.tensor(student), 4.0, 0.3)
    assert float(loss) == pytest.approx(divergence(1.0) + 0.3 * divergence(4.0), rel=1e-9)
    nothing = torch.zeros(0, 4, requires_grad=True)
    assert float(softened_loss(torch.zeros(0, 4), nothing, 4.0, 1.0).detach()) == 0


def test_a_teacher_and_its_student_learn(faces: FaceSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = FaceNet(16, (8, 8, 8), (1, 1, 1)).eval()
    before = [parameter.clone() for parameter in base.parameters()]
    recipe = TransferRecipe(steps=3, batch=6)
    seen: list[int] = []

    def purify(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x

    teacher, head = tune_teacher(base, purify, faces, recipe, tmp_path / "teacher")
    assert seen == [6] * 3
    student = teach_student(base, teacher, head, purify, faces, recipe, tmp_path / "student")
    assert seen == [6] * 9
    for one, other in ((teacher, base), (student, base), (student, teacher)):
        assert not torch.equal(one.stages[0][0][0].weight, other.stages[0][0][0].weight)
    for parameter, old in zip(base.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    nobody = replace(faces, names=tuple("flat/x.png" for _ in faces.names))
    with pytest.raises(DataError, match="expected faces with identities"):
        tune_teacher(base, purify, nobody, recipe, tmp_path / "nobody")


def test_the_command_makes_the_table(
    folders: list[Path],
    guide_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    denoiser = UddnNet()
    nn.init.normal_(denoiser.unet.noise.weight, std=0.01)
    for folder, net in (("recognizer", FaceNet(16)), ("uddn", denoiser)):
        Path(folder).mkdir()
        torch.save({"parts": {"net": net.state_dict()}}, f"{folder}/checkpoint.pt")
    describe_run("uddn", "UDDN", size="light")
    command = [
        "transfer", "--data", *map(str, folders), "--cache", "cache", "--recognizer", "recognizer",
        "--denoiser", "uddn", "--stranger", str(guide_file), "--pairs", "8",
        "--attacked", "2", "--steps", "2", "--batch", "4",
    ]  # fmt: skip
    assert main(command) == 0
    rows = json.loads(Path("runs/transfer/transfer.json").read_text())
    assert list(rows) == ["none", "denoise only", "distillation only", "all"]
    assert all(len(row) == 1 + 2 * 8 * 2 for row in rows.values())
    printed = capsys.readouterr().out
    assert "black box fgsm dodging" in printed
    assert Recognizer.from_onnx("student.onnx").dim == 16

    assert main(command) == 1
    assert "continue it with --resume" in capsys.readouterr().err
    kept, lost = (Path(f"runs/transfer/all/{who}/checkpoint.pt") for who in ("teacher", "student"))
    written = kept.stat().st_mtime_ns
    lost.unlink()
    assert main([*command, "--resume"]) == 0
    assert kept.stat().st_mtime_ns == written
    assert lost.exists()
    assert json.loads(Path("runs/transfer/transfer.json").read_text()) == rows


def test_a_run_of_another_kind_is_named(
    basis: Basis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    basis.save(tmp_path / "eigenfaces.npz")
    described = {"luma": 20, "chroma": 12, "selector": "light", "memory": 0}
    describe_run(tmp_path, "AIS", eigenfaces=str(tmp_path / "eigenfaces.npz"), **described)
    net = AisNet(Basis.load(tmp_path / "eigenfaces.npz"), memory=0)
    torch.save({"parts": {"net": net.state_dict()}}, tmp_path / "checkpoint.pt")
    command = ["transfer", "--data", "none", "--recognizer", "none", "--denoiser", str(tmp_path)]
    assert main(command) == 1
    assert "expected a run of uddn for --denoiser, got one of AIS" in capsys.readouterr().err


def test_recipes_that_mean_nothing() -> None:
    with pytest.raises(OptionError, match="expected a temperature"):
        TransferRecipe(temperature=0.5)
    with pytest.raises(OptionError, match="expected hostile from 0 to 1"):
        TransferRecipe(hostile=1.5)
