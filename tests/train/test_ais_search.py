"""AIS from training to a search at run time, on little data."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from facepurify import Purifier
from facepurify.bench.defences import get_defence
from facepurify.errors import ModelContractError, OptionError
from facepurify.onnxfile import read_constants
from facepurify.search import Search, SearchOptions
from facepurify.train.__main__ import main
from facepurify.train.ais import AisNet
from facepurify.train.basis import Basis
from facepurify.train.critic import AffinityCritic
from facepurify.train.export import export_purifier
from facepurify.train.fit_critic import CriticRecipe
from facepurify.weights import read_manifest

SIZES = ["--luma", "20", "--chroma", "10"]


@pytest.fixture(scope="module")
def model(basis: Basis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AIS whose p is far from certain, so that there is something to search."""
    torch.manual_seed(0)
    net = AisNet(basis, memory=4)
    with torch.no_grad():
        net.norm.bias.normal_()
        net.evidence.normal_(std=0.2)
    net.remember(torch.randn(6, net.selector.code_size))
    net.take_off(1.25)
    path = tmp_path_factory.mktemp("ais") / "tiny.onnx"
    export_purifier(net.eval(), path, AffinityCritic(net.space.count, net.selector.code_size))
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((4, 3, 112, 112), np.float32)


def test_what_is_kept_is_the_graph_s(model: Path, images: np.ndarray) -> None:
    purifier = Purifier(model, budget=(1, 1), affinity="agreement")
    found = purifier.purify_canonical(images)
    plain = Purifier(model, mask="threshold").purify_canonical(images)
    # The threshold mask is the medoid of itself and one more clone, or that clone is it.
    assert np.abs(found.images - plain.images).max() < 0.5
    session, search = purifier._stages[0]._session, purifier._stages[0]._search
    assert session is not None
    assert search is not None
    coefficients, probability = session.run(["coefficients", "probability"], {"image": images})
    kept = search.keep(images, coefficients * (probability > 0.5))
    assert np.allclose(kept, plain.images, atol=1e-5)


def test_the_default_is_the_threshold_mask(model: Path, images: np.ndarray) -> None:
    purifier = Purifier(model)
    assert purifier.info.masks == ("threshold", "expected", "fixed", "sampled")
    image = (images[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    found = purifier.inspect(image)
    assert found.mask is not None
    assert found.probability is not None
    assert np.array_equal(found.mask, found.probability > 0.5)
    assert np.array_equal(found.active, np.flatnonzero(found.mask))
    assert found.sparsity == pytest.approx(1 - found.mask.mean())
    assert found.certainty == pytest.approx(2 * np.abs(found.probability - 0.5).mean(), abs=1e-6)


@pytest.mark.parametrize("affinity", ["critic", "agreement", "consistency"])
def test_a_search_is_repeatable_and_batches_do_not_matter(
    affinity: str, model: Path, images: np.ndarray
) -> None:
    purifier = Purifier(model, budget=(6, 3), affinity=affinity)
    whole = purifier.purify_canonical(images).images
    assert np.array_equal(whole, purifier.purify_canonical(images, seed=0).images)
    alone = np.concatenate([purifier.purify_canonical(image[None]).images for image in images])
    assert np.array_equal(whole, alone)
    again = pickle.loads(pickle.dumps(purifier))
    assert np.array_equal(whole, again.purify_canonical(images).images)
    if affinity == "critic":
        other = purifier.purify_canonical(images, seed=1).images
        assert not np.allclose(whole, other, atol=1e-4)


def test_a_search_finds_what_the_critic_likes(model: Path, images: np.ndarray) -> None:
    purifier = Purifier(model, budget=(32, 4))
    stage = purifier._stages[0]
    search = stage._search
    assert isinstance(search, Search)
    seen: list[np.ndarray] = []
    score_of = search._score

    def spy(sensed: object) -> object:
        score = score_of(sensed)  # type: ignore[arg-type]

        def noted(clones: np.ndarray) -> np.ndarray:
            seen.append(score(clones))
            return seen[-1]

        return noted

    search._score = spy  # type: ignore[method-assign, assignment]
    found = purifier.inspect((images[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    assert len(seen) == 4
    assert seen[-1].max() > seen[0][0, 0]  # better than the threshold mask, which is the first
    assert found.mask is not None
    assert set(np.unique(found.mask)) <= {0.0, 1.0}


def test_the_caller_s_recognizer_scores_the_clones(model: Path, images: np.ndarray) -> None:
    sizes: list[int] = []

    def recognize(crops: np.ndarray) -> np.ndarray:
        sizes.append(len(crops))
        return crops.mean(axis=(1, 2)) - 100.0

    purifier = Purifier(model, budget=(5, 2), recognizer=recognize)
    assert purifier.purify_canonical(images).images.shape == images.shape
    assert sizes == [4 * 6, 4 * 6]


def test_a_large_budget_goes_image_by_image(
    model: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    purifier = Purifier(model, budget=(6, 2))
    whole = purifier.purify_canonical(images).images
    monkeypatch.setattr("facepurify.search._TOGETHER", 6)
    assert np.array_equal(whole, purifier.purify_canonical(images).images)


def test_memory_is_kept_only_when_asked(model: Path, images: np.ndarray) -> None:
    assert Purifier(model, budget=(4, 1)).memories == ()
    purifier = Purifier(model, budget=(4, 1), remember=True)
    (memory,) = purifier.memories
    purifier.purify_canonical(images)
    assert len(memory) == 4


def test_what_cannot_be_searched(
    model: Path, tiny_model: Path, basis: Basis, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="whose antibody can be searched"):
        Purifier(tiny_model, budget=(4, 1))
    with pytest.raises(OptionError, match="a mask or a search"):
        Purifier(model, budget=(4, 1), mask="fixed")
    net = AisNet(basis, memory=0).eval()
    export_purifier(net, tmp_path / "plain.onnx")
    with pytest.raises(OptionError, match="expected a model with a critic"):
        Purifier(tmp_path / "plain.onnx", budget=(4, 1))
    assert Purifier(tmp_path / "plain.onnx", affinity="agreement").info.K == 32
    constants = read_constants(model.read_bytes())
    del constants["search.luma.frequencies"]
    with pytest.raises(ModelContractError, match=r"search\.luma\.frequencies"):
        Search(constants, 32, SearchOptions())


def test_a_chain_searches_where_it_can(model: Path, tiny_model: Path, images: np.ndarray) -> None:
    chain = Purifier([tiny_model, model], budget=(4, 2), affinity="agreement")
    first = Purifier(tiny_model).purify_canonical(images).images
    second = Purifier(model, budget=(4, 2), affinity="agreement")
    expected = second.purify_canonical(first).images
    assert np.array_equal(chain.purify_canonical(images).images, expected)


def test_the_benchmark_attacks_a_search_by_its_mean_mask(model: Path, images: np.ndarray) -> None:
    defence = get_defence(f"{model}:4x2")
    assert defence.random
    assert defence.name == "tiny:4x2"
    searched = Purifier(model, budget=(4, 2)).purify_canonical(images, seed=3).images
    assert np.array_equal(defence.purify(images, seed=3), searched)
    x = torch.from_numpy(images).requires_grad_()
    defence.differentiable(x, seed=3).square().sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0


def test_the_study_offers_no_resuming(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ais-gradient", "--guide", "none.onnx", "--resume"])
    assert "unrecognized arguments: --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"clones": 1}, "expected clones >= 2"), ({"clean": 1.1}, "expected clean from 0 to 1")],
)
def test_critics_that_mean_nothing(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CriticRecipe(**wrong)


def test_commands_from_training_to_the_search(
    folders: list[Path], guide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    data = ["--data", *map(str, folders), "--cache", "cache"]
    guides = ["--guide", str(guide_file)]
    origin = ["--training-data", "random faces", "--licence", "none"]
    study = ["--repeats", "2", "--reference", "2", "--batch", "3", "--held-out", "3"]
    study += ["--seconds", "0.2", "--every", "0.1", "--clones", "2", "--sparsity", "10"]
    small = ["--batch", "4", "--sparsity", "10"]
    steps = (
        ["eigenfaces", *data, *SIZES, "--luma-zone", "90", "--chroma-zone", "30"],
        ["attacks", *data, *guides, "--count", "8"],
        ["ais", *guides, *SIZES, *small, "--steps", "3", "--clones", "2", "--memory", "4"],
        ["critic", *guides, *small, "--steps", "2", "--clones", "2"],
        ["export", *data, "--run", "runs/ais", "--publish", "models", *origin],
        ["ais-search", *data, *guides, "--model", "ais.onnx", "--pairs", "12", "--attacked", "4"],
        [
            "ais-gradient",
            *guides,
            *SIZES,
            *study,
            "--start",
            "runs/ais",
            "--memory",
            "4",
            "--run",
            "study",
        ],
    )
    for arguments in steps:
        assert main(arguments) == 0, arguments
    entry = read_manifest(Path("models")).models["ais"]
    assert entry.method == "AIS"
    assert entry.masks[0] == "threshold"
    assert entry.score_threshold is not None
    table = json.loads(Path("choice/search.json").read_text())["results"]["guide"]
    assert {"threshold mask", "one random mask", "search by critic", "no purifier"} <= set(table)
    assert "search by agreement" in capsys.readouterr().out
    report = json.loads(Path("study/gradient.json").read_text())
    assert report["mean"]["variance"] == pytest.approx(0, abs=1e-9)
    assert all(row["variance"] >= 0 and len(row["curve"]) > 1 for row in report.values())
