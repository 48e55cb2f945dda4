"""Fitting the denoiser: its noises, its guides, its attacks, and the way to a shipped file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from facepurify import Purifier
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import AttackError, DataError, OptionError
from facepurify.train import fit_uddn as fitting
from facepurify.train.__main__ import main
from facepurify.train.attack_pack import AttackPack, Batch, make_pack
from facepurify.train.corruption import corrupt
from facepurify.train.faces import FaceSet
from facepurify.train.fit_uddn import UddnRecipe, distances, fit_uddn
from facepurify.train.guide import Guide
from facepurify.train.loop import load_run
from facepurify.train.runs import describe_run, load_uddn, open_run
from facepurify.train.uddn import UddnNet
from facepurify.weights import read_manifest
from tests.bench.small_nets import recognizer_model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_guides_feature_is_what_its_last_layer_turns_into_the_embedding(
    guide: Recognizer, pack: AttackPack
) -> None:
    x = torch.from_numpy(pack.clean[:3] / np.float32(255))
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in recognizer_model().graph.initializer
    }
    tapped = Guide(guide)
    feature = tapped.feature(x)
    embedding = nn.functional.normalize(feature @ torch.tensor(weights["w3"]))
    assert torch.allclose(embedding, guide.embed(x), atol=1e-5)
    assert torch.equal(tapped.embed(x), guide.embed(x))
    (gradient,) = torch.autograd.grad(tapped.feature(x.requires_grad_()).sum(), x)
    assert float(gradient.abs().max()) > 0


def test_no_guide_stays_on_its_recognizer(
    guide: Recognizer, pack: AttackPack, tmp_path: Path
) -> None:
    recipe = UddnRecipe(steps=1, batch=2, distance="feature")
    fit_uddn(UddnNet(), pack, [guide], recipe, tmp_path / "run")
    assert not any(layer._forward_pre_hooks for layer in guide.modules())


def test_a_redrawn_guide_is_another_recognizer(guide: Recognizer, pack: AttackPack) -> None:
    x = torch.from_numpy(pack.clean[:6] / np.float32(255))
    one, again, other = (Guide(guide).redrawn(x, generator(seed))(x) for seed in (1, 1, 2))
    assert torch.allclose(one.norm(dim=1), torch.ones(6))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=0.1)


def test_distances_by_hand() -> None:
    a, b = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.6, 0.8, 0.0, 0.0]])
    assert distances(a, b, "cosine").tolist() == pytest.approx([0.4])
    assert distances(a, b, "l1").tolist() == pytest.approx([1.2 / 2])


def judged(net: UddnNet, pack: AttackPack, guide: Recognizer, distance: str) -> float:
    """How far the guide sees the purified attacks from the clean faces."""
    clean, attacked = pack.images(torch.arange(len(pack)), mirrored=False)
    see = Guide(guide).feature if distance == "feature" else guide.embed
    with torch.no_grad():
        return float((see(net.eval().purify(attacked)) - see(clean)).abs().mean())


@pytest.mark.usefixtures("as_they_are")
@pytest.mark.parametrize("distance", ["cosine", "l1", "feature"])
def test_training_brings_the_embedding_back(
    distance: str, pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = UddnNet()
    before = judged(net, pack, guide, distance)
    recipe = UddnRecipe(
        steps=30, batch=12, rate=1e-3, distance=distance, clean=0, noisy=0, band=0, pixel=0,
        recompressed=0, settled=True,
    )  # fmt: skip
    fit_uddn(net, pack, [guide, guide], recipe, tmp_path / "run")
    assert judged(net, pack, guide, distance) < 0.96 * before


@pytest.mark.usefixtures("as_they_are")
def test_what_is_left_of_an_attack_has_its_price(
    pack: AttackPack, guide: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn, logged = AttackPack.draw, [], []

    def noted(pack: AttackPack, *arguments: Any) -> Batch:
        drawn.append(draw(pack, *arguments))
        return drawn[-1]

    monkeypatch.setattr(AttackPack, "draw", noted)
    for lean in (0.0, 2.0):
        recipe = UddnRecipe(
            steps=1, batch=12, distance="l1", lean=lean, clean=0, noisy=0, band=0, pixel=0,
            recompressed=0, settled=True,
        )  # fmt: skip
        torch.manual_seed(0)
        fit_uddn(UddnNet(), pack, [guide], recipe, tmp_path / f"{lean}")
        with (tmp_path / f"{lean}" / "log.csv").open(newline="") as log:
            logged.append(float(next(csv.DictReader(log))["distance_attacked"]))
    # A new network takes off nothing, so that all of the attack is left.
    left = (guide.embed(drawn[1].attacked) - guide.embed(drawn[1].clean)).norm(dim=1).mean()
    assert logged[1] - logged[0] == pytest.approx(2 * float(left), rel=1e-3)


@pytest.mark.parametrize(("matched", "victims"), [(False, [None] * 3), (True, [1, 0, 1])])
def test_a_guide_judges_attacks_on_itself_if_it_is_to(
    matched: bool,
    victims: list[int | None],
    faces: FaceSet,
    guide: Recognizer,
    shipped: Recognizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw, asked = AttackPack.draw, []

    def noted(pack: AttackPack, count: int, generator: torch.Generator, victim: Any) -> Batch:
        asked.append(victim)
        return draw(pack, count, generator, victim)

    monkeypatch.setattr(AttackPack, "draw", noted)
    pack = make_pack(faces, [guide, shipped], 4, batch=2)
    recipe = UddnRecipe(steps=3, batch=2, matched=matched)
    fit_uddn(UddnNet(), pack, [shipped, guide], recipe, tmp_path / "run")
    assert asked == victims


def test_a_guide_that_has_no_attacks_to_judge(
    faces: FaceSet, guide: Recognizer, shipped: Recognizer, tmp_path: Path
) -> None:
    pack, recipe = make_pack(faces, [guide, shipped], 4), UddnRecipe(steps=1, matched=True)
    with pytest.raises(OptionError, match=f"expected attacks on {shipped.name} in the pack"):
        fit_uddn(UddnNet(), pack, [guide, shipped], recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rehearse", [0, 2])
def test_fresh_attacks_are_made_in_the_step(
    rehearse: int,
    pack: AttackPack,
    guide: Recognizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = UddnNet()
    through: list[bool] = []
    denoise = net.denoise

    def noted(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        through.append(net.training)
        return denoise(x)

    monkeypatch.setattr(net, "denoise", noted)
    statistics = [norm.running_mean.clone() for norm in norms(net)]
    recipe = UddnRecipe(steps=3, batch=4, fresh=1.0, redraw=0.5, rehearse=rehearse, clean=0.1)
    fit_uddn(net, pack, [guide, guide], recipe, tmp_path / "run")
    moved = any(
        not torch.equal(norm.running_mean, old)
        for norm, old in zip(norms(net), statistics, strict=True)
    )
    # Rehearsed attacks see the very network that learns, so the statistics stand still.
    assert moved == (rehearse == 0)
    # Each step judges once; an attack takes its steps, and one pass to begin with.
    assert through == [rehearse == 0] * (3 * (rehearse + 2 if rehearse else 1))


@pytest.mark.usefixtures("as_they_are")
@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_attacks_lose_their_colour_if_they_are_to(
    grey: float,
    pack: AttackPack,
    guide: Recognizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise: list[torch.Tensor] = []

    def noted(clean: torch.Tensor, attacked: torch.Tensor, *others: Any) -> torch.Tensor:
        unclipped = ((attacked > 0) & (attacked < 1)).all(dim=1, keepdim=True)
        noise.append((attacked - clean) * unclipped)
        return corrupt(clean, attacked, *others)

    monkeypatch.setattr(fitting, "corrupt", noted)
    recipe = UddnRecipe(steps=1, batch=12, clean=0, grey=grey)
    fit_uddn(UddnNet(), pack, [guide], recipe, tmp_path / "run")
    (moved,) = noise
    apart = (moved - moved.mean(dim=1, keepdim=True)).abs().amax(dim=(1, 2, 3))
    assert bool((apart < 1e-6).all()) == (grey == 1)
    assert float(moved.abs().flatten(1).amax(dim=1).min()) > 1.5 / 255


def norms(net: UddnNet) -> list[nn.BatchNorm2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_generated_noise_is_what_the_network_sees(
    pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    asked: list[torch.Tensor] = []

    def draw(strength: torch.Tensor, _: torch.Generator) -> torch.Tensor:
        asked.append(strength)
        return torch.zeros(len(strength), 3, 112, 112)

    recipe = UddnRecipe(steps=2, batch=4, clean=0, noisy=0, band=0, generated=1.0)
    fit_uddn(UddnNet(), pack, [guide, guide], recipe, tmp_path / "run", draw_noise=draw)
    assert [len(strength) for strength in asked] == [4, 4]
    with pytest.raises(OptionError, match="expected a GNR run"):
        fit_uddn(UddnNet(), pack, [guide, guide], recipe, tmp_path / "other")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distance": "l2"}, "expected a distance of"),
        ({"clean": 0.9, "band": 0.2}, "1 together at most"),
        ({"fresh": 1.5}, "expected fresh from 0 to 1"),
        ({"grey": -0.5}, "expected grey from 0 to 1"),
        ({"recompressed": -0.1}, "expected recompressed from 0 to 1"),
        ({"lean": -1.0}, "expected a finite lean of 0 or more"),
        ({"lean": 1.0, "distance": "feature"}, "a distance of embeddings"),
        ({"rehearse": -1, "fresh": 0.5}, "expected rehearse and reconstruction"),
        ({"rehearse": 3}, "above 0 to redraw or rehearse"),
    ],
)
def test_recipes_that_mean_nothing(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        UddnRecipe(**wrong)


def test_kinds_of_attack_and_guides_of_other_lengths(
    faces: FaceSet, guide: Recognizer, shipped: Recognizer, tmp_path: Path
) -> None:
    pack = make_pack(faces, [guide, shipped], 4, batch=2, kinds={"dim": 1.0, "mim": 1.0})
    pack.save(tmp_path / "pack.npz")
    loaded = AttackPack.load(tmp_path / "pack.npz")
    assert [each.shape[-1] for each in loaded.embeddings] == [guide.dim, shipped.dim]
    fit_uddn(UddnNet(), loaded, [guide, shipped], UddnRecipe(steps=2, batch=2), tmp_path / "run")
    with pytest.raises(AttackError, match="unknown attack"):
        make_pack(faces, [guide], 2, kinds={"magic": 1.0})
    with pytest.raises(OptionError, match="shares of 0 or more"):
        make_pack(faces, [guide], 2, kinds={"pgd": -1.0})


def test_commands_from_attacks_to_a_purifier(
    folders: list[Path], guide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    data = ["--data", *map(str, folders), "--cache", "cache"]
    guides = ["--guide", str(guide_file)]
    origin = ["--training-data", "random faces", "--licence", "none"]
    for arguments in (
        ["attacks", *data, *guides, "--count", "8", "--kind", "pgd=1", "--kind", "dim=1"],
        ["uddn", *guides, "--steps", "2", "--batch", "2"],
        ["uddn", *guides, "--steps", "2", "--batch", "2", "--start", "runs/uddn", "--run", "more"],
        ["export", *data, "--run", "more", "--publish", "models", *origin],
    ):
        assert main(arguments) == 0, arguments
    entry = read_manifest(Path("models")).models["uddn"]
    assert entry.method == "UDDN"
    assert entry.masks == ()
    assert entry.path.read_bytes() == Path("uddn.onnx").read_bytes()
    assert 0 < (entry.score_threshold or 0) < 1
    assert entry.bytes < 6_000_000
    net = UddnNet()
    load_run(net, "more")
    x = np.random.default_rng(0).random((3, 3, 112, 112), dtype=np.float32)
    with torch.no_grad():
        purified, suspicion = net(torch.from_numpy(x))
    result = Purifier("uddn.onnx").purify_canonical(x)
    assert not np.array_equal(result.images, x)
    assert np.allclose(result.images, purified.numpy(), atol=1e-5)
    assert np.allclose(result.score, suspicion.sigmoid().numpy(), atol=1e-5)
    gone_on = ["uddn", *guides, "--uddn", "uddn.onnx", "--run", "on"]
    assert main(gone_on) == 1
    assert "expected --settled or --frozen to begin from an ONNX file" in capsys.readouterr().err
    settled = ["--settled", "--rate", "1e-9", "--steps", "1", "--batch", "2"]
    assert main([*gone_on, *settled]) == 0
    with torch.no_grad():
        assert torch.allclose(open_run("on")(torch.from_numpy(x))[0], purified, atol=1e-5)
    capsys.readouterr()
    assert main(["uddn", *guides, "--prune", "slim", "--run", "less"]) == 1
    assert "expected a run, a model's name or a file to prune" in capsys.readouterr().err
    less = ["uddn", *guides, "--uddn", "uddn.onnx", "--prune", "slim", "--run", "less", *settled]
    assert main(less) == 0
    assert load_uddn("less").size == "slim"


def test_a_run_that_was_not_described(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"facepurify.train pin"):
        open_run(tmp_path)
    describe_run(tmp_path, "UDDN", size="light")
    describe_run(tmp_path, "UDDN", size="light")
    with pytest.raises(DataError, match="expected a run of"):
        describe_run(tmp_path, "UDDN", size="published")
    with pytest.raises(DataError, match="expected a checkpoint"):
        open_run(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"method": "UDDN", "size": "huge"}))
    with pytest.raises(DataError, match="no network known"):
        open_run(tmp_path)
