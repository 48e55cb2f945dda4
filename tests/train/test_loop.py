"""The loop resumes exactly and refuses what it cannot continue."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import facepurify.train.loop as module
from facepurify.errors import DataError, OptionError, OutputExistsError, SeedError
from facepurify.train.loop import Loop, weights_of


@dataclass(frozen=True)
class Recipe:
    steps: int
    batch: int = 4
    rate: float = 0.1


def train(
    folder: Path, steps: int, *, stop: int | None = None, resume: bool = False, **changes: float
) -> nn.Linear:
    recipe = replace(Recipe(steps), **changes)
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(net.parameters(), recipe.rate)
    loop = Loop(folder, {"net": net, "optimizer": optimizer}, recipe, seed=5, resume=resume)
    for step, generator in loop:
        if step == stop:
            break
        x = torch.randn(4, 3, generator=generator)
        loss = (net(x) - x.sum(dim=1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.log(loss=float(loss.detach()))
    return net


def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 4)
    whole = train(tmp_path / "whole", 12)
    train(tmp_path / "parts", 12, stop=7)
    parts = train(tmp_path / "parts", 12, resume=True)
    assert torch.equal(whole.weight, parts.weight)
    rows = {
        name: list(csv.DictReader((tmp_path / name / "log.csv").read_text().splitlines()))
        for name in ("whole", "parts")
    }
    assert rows["whole"] == rows["parts"]
    assert len(rows["whole"]) == 12
    assert (tmp_path / "parts" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_shows_what_the_run_has() -> None:
    rows = [
        {"step": 0.0, "loss": 2.0, "rare": float("nan"), "unused": 0.0, "never": float("nan")},
        {"step": 1.0, "loss": 1.0, "rare": 3.0, "unused": 0.0, "never": float("nan")},
    ]
    panels = module.panels_of(rows)
    assert list(panels) == ["loss", "rare"]
    assert panels["loss"].tolist() == [2.0, 1.0]
    assert module.panels_of([]) == {}


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path, 3)
    with pytest.raises(OutputExistsError, match="--resume"):
        train(tmp_path, 3)


def test_a_damaged_or_foreign_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, 3)
    with pytest.raises(DataError, match="expected a checkpoint of this very run"):
        Loop(tmp_path, {"net": nn.Linear(2, 1)}, Recipe(3), resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(DataError, match="expected a checkpoint of this very run"):
        Loop(tmp_path, {"net": nn.Linear(3, 1)}, Recipe(3), resume=True)


@pytest.mark.parametrize("changes", [{"steps": 9}, {"rate": 0.2}, {"batch": 8, "rate": 0.2}])
def test_a_run_goes_on_as_it_was_begun(tmp_path: Path, changes: dict[str, float]) -> None:
    train(tmp_path, 3)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(OptionError, match=f"got another {', '.join(sorted(changes))}: "):
        train(tmp_path, **{"steps": 3, **changes}, resume=True)
    with pytest.raises(OptionError, match="got another seed: "):
        Loop(tmp_path, {"net": nn.Linear(3, 1)}, Recipe(3), seed=6, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 3, "batch": 1}])
def test_a_run_of_nothing_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="at least one step and two images"):
        Loop(tmp_path / "run", {}, Recipe(**wrong))
    with pytest.raises(SeedError, match="got -1"):
        Loop(tmp_path / "run", {}, Recipe(3), seed=-1)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_from_its_own_sources_only(tmp_path: Path) -> None:
    def begin(*, resume: bool, **sources: str) -> Loop:
        net = nn.Linear(3, 1)
        return Loop(tmp_path, {"net": net}, Recipe(3), resume=resume, sources=sources)

    for _ in begin(resume=False, faces="a", teacher="b"):
        pass
    begin(resume=True, faces="a", teacher="b")
    for others, named in (({"faces": "c", "teacher": "b"}, "faces"), ({"faces": "a"}, "teacher")):
        with pytest.raises(OptionError, match=f"got another {named}: "):
            begin(resume=True, **others)


def test_other_weights_have_another_checksum() -> None:
    net = nn.Linear(3, 1)
    before = weights_of(net)
    assert before == weights_of(net)
    with torch.no_grad():
        net.bias += 1
    assert weights_of(net) != before
