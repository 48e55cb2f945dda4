"""Steps: run once, judged over all candidates, and made anew by new code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from facepurify import Purifier
from facepurify.bench import steps as steps_module
from facepurify.bench.cache import Cache
from facepurify.bench.defences import get_defence
from facepurify.bench.pairs import Pairs
from facepurify.bench.progress import Progress
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.steps import Faces, Steps, Target

COUNT = 2


@pytest.fixture(scope="module")
def recognizer(recognizer_files: list[Path]) -> Recognizer:
    return Recognizer.from_onnx(recognizer_files[0], threads=1)


@pytest.fixture
def target(people_pairs: Pairs, recognizer: Recognizer) -> Target:
    """A few probes to dodge with, without a defence."""
    embeddings = recognizer.embed_numpy(steps_module.to_float(people_pairs.images))
    probes, gallery = people_pairs.genuine[:COUNT].T
    faces = Faces(people_pairs.images[probes], embeddings[gallery])
    return Target(recognizer, get_defence("none"), faces, "dodging")


def opened(folder: Path) -> Steps:
    return Steps(Cache(folder), Progress(), seed=0)


def see(steps: Steps, target: Target) -> object:
    return steps.see(target.faces.probes, target.recognizer, target.defence)


def quality(steps: Steps, target: Target) -> object:
    return steps.quality(target.faces.probes, target.defence)


def distance(steps: Steps, target: Target) -> object:
    return steps.distance(target, "linf", threshold=0.3, draws=1)


STEPS = [see, quality, distance]


def kept(folder: Path) -> int:
    return len(list(folder.rglob("*.npz")))


@pytest.mark.parametrize(
    ("step", "source"),
    [
        *((step, f"attacks/{name}.py") for step in STEPS for name in ("dim", "tim")),
        *((step, "baselines.py") for step in STEPS),
        (quality, "metrics.py"),
    ],
)
def test_new_code_makes_results_anew(
    step: Callable[[Steps, Target], object],
    source: str,
    target: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    original = Path.read_text
    step(opened(tmp_path), target)
    step(opened(tmp_path), target)
    assert kept(tmp_path) == 1

    def edited(path: Path, *arguments: str) -> str:
        text = original(path, *arguments)
        return f"{text}# edited" if path.as_posix().endswith(f"bench/{source}") else text

    monkeypatch.setattr(Path, "read_text", edited)
    step(opened(tmp_path), target)
    assert kept(tmp_path) == 2


def test_other_bounds_make_distances_anew(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    distance(opened(tmp_path), target)
    monkeypatch.setitem(steps_module.LARGEST, "linf", 1.0)
    distance(opened(tmp_path), target)
    assert kept(tmp_path) == 2


@pytest.mark.parametrize("goal", ["dodging", "impersonation"])
def test_the_strongest_is_chosen_for_each_probe(target: Target, tmp_path: Path, goal):
    target = target._replace(goal=goal)
    clean = target.faces.probes
    rival = 255 - clean
    rival[0] = clean[0]
    candidates = [clean[:, ::-1].copy(), rival]
    candidates[0][1] = clean[1]
    scene = target.scene(target.faces)
    cosines = torch.stack(
        [scene.cosine(torch.from_numpy(steps_module.to_float(images))) for images in candidates]
    )
    best = cosines.argmin(0) if goal == "dodging" else cosines.argmax(0)
    assert len(set(best.tolist())) == COUNT  # each candidate is the strongest for one of them
    chosen = opened(tmp_path).strongest(target, candidates, draws=1)
    for index, which in enumerate(best):
        np.testing.assert_array_equal(chosen[index], candidates[which][index])


def test_a_purifier_runs_once(
    target: Target, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    defence = get_defence(str(tiny_model))
    original = Purifier.purify_canonical
    runs = []

    def counted(purifier: Purifier, batch: np.ndarray, seed: int | None = None) -> object:
        runs.append(len(batch))
        return original(purifier, batch, seed=seed)

    monkeypatch.setattr(Purifier, "purify_canonical", counted)
    seen = opened(tmp_path).see(target.faces.probes, target.recognizer, defence)
    assert runs == [COUNT]
    assert seen.suspicion is not None
    assert seen.suspicion.shape == (COUNT,)
