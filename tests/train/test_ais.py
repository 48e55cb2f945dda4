"""AIS: memory, clones, selection and its gradients against their definitions; training."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.train.ais import ANALYZERS, AisNet, MemoryCells, specificity
from facepurify.train.attack_pack import AttackPack
from facepurify.train.basis import Basis
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.fit_ais import AisRecipe, Attacker, fit_ais, shift_of
from facepurify.train.runs import describe_run, open_run
from facepurify.train.selection import Affinity, clone, leave_one_out, select

GENES = 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def affinity() -> Affinity:
    """Two samples of five genes; the identity part is far from separable."""
    clean, seen = torch.randn(2, 2, GENES, generator=generator(1)).double()
    weight = torch.randn(GENES, generator=generator(2)).double()

    def shift(antibodies: Tensor) -> Tensor:
        return torch.tanh((antibodies * weight).sum(dim=2)) * antibodies.prod(dim=2).add(1)

    return Affinity(clean, seen, torch.tensor(0.2).double(), 2.0, 0.5, 1.5, shift)


def probabilities() -> Tensor:
    drawn = torch.rand(2, GENES, generator=generator(3)).double()
    return drawn.mul(0.7).add(0.15).requires_grad_()


def enumerated(p: Tensor, affinity: Affinity) -> Tensor:
    """The expected affinity [N] under Bernoulli(p), as the sum over all 2^K antibodies."""
    total = torch.zeros(len(p)).double()
    for bits in itertools.product((0.0, 1.0), repeat=GENES):
        antibody = torch.tensor(bits).double().expand(1, len(p), GENES)
        chance = torch.where(antibody[0] > 0, p, 1 - p).prod(dim=1)
        total = total + chance * affinity(antibody)[0]
    return total


def test_the_separable_part_is_its_exact_expectation(affinity: Affinity) -> None:
    p = probabilities()
    plain = Affinity(**{**vars(affinity), "identity": 0.0})
    (exact,) = torch.autograd.grad(enumerated(p, plain).sum(), p)
    for gradient in ("exact+loo", "straight-through", "mean"):
        surrogate = select(p, plain, gradient, 2, generator())[0].sum()
        (ours,) = torch.autograd.grad(surrogate, p)
        assert torch.allclose(ours, exact, atol=1e-9), gradient


@pytest.mark.parametrize("clones", [2, 5])
def test_leave_one_out_is_unbiased(affinity: Affinity, clones: int) -> None:
    """Even with two clones, where the mean of all as a baseline halves the gradient."""
    p = probabilities()
    (exact,) = torch.autograd.grad(enumerated(p, affinity).sum(), p)
    draws, rng = 40_000, generator(4)
    repeated = p.repeat(draws, 1)
    many = Affinity(
        **{
            **vars(affinity),
            "clean": affinity.clean.repeat(draws, 1),
            "seen": affinity.seen.repeat(draws, 1),
        }
    )
    surrogate, value = select(repeated, many, "exact+loo", clones, rng)
    (ours,) = torch.autograd.grad(surrogate.sum() / draws, p)
    assert torch.allclose(ours, exact, atol=0.1, rtol=0.03)
    expected = enumerated(p, affinity).detach()
    assert torch.allclose(value.unflatten(0, (draws, 2)).mean(dim=0), expected, rtol=0.02)


def test_published_gradient_shares_the_direction(affinity: Affinity) -> None:
    p = probabilities()
    (exact,) = torch.autograd.grad(enumerated(p, affinity).sum(), p)
    (ours,) = torch.autograd.grad(
        select(p, affinity, "published", 60_000, generator(5))[0].sum(), p
    )
    assert torch.allclose(ours, exact, atol=0.15, rtol=0.05)


def test_leave_one_out_values_sum_to_nothing() -> None:
    values = torch.randn(7, 3, generator=generator())
    expected = torch.stack(
        [values[i] - values[[j for j in range(7) if j != i]].mean(dim=0) for i in range(7)]
    )
    assert torch.allclose(leave_one_out(values), expected, atol=1e-6)


def test_a_certain_gene_is_the_same_in_all_clones() -> None:
    p = torch.tensor([[0.0, 1.0, 0.5]])
    clones = clone(p, 500, generator())
    assert torch.equal(clones[:, 0, :2], torch.tensor([0.0, 1.0]).expand(500, 2))
    assert 0.4 < float(clones[:, 0, 2].mean()) < 0.6


def test_memory_fills_up_and_then_moves_slowly() -> None:
    cells = MemoryCells(3, 2)
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [9.0, 9.0]])
    cells.update(first)
    assert torch.equal(cells.cells, first[:3])
    cells.update(torch.tensor([[3.0, 0.1], [1.0, -0.1]]))
    assert torch.allclose(cells.cells[0], torch.tensor([1.001, 0.0]))
    assert torch.equal(cells.cells[1:], first[1:3])


def test_memory_reads_the_likest_cell() -> None:
    cells = MemoryCells(2, 2)
    cells.update(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    with torch.no_grad():
        cells.sharpness.fill_(50.0)
    assert torch.allclose(cells(torch.tensor([[5.0, 0.0]])), torch.tensor([[2.0, 0.0]]), atol=1e-5)


def test_specificity_is_the_mean_distance_of_pairs() -> None:
    antibodies = clone(torch.full((6, 40), 0.3), 1, generator())[0]
    pairs = [(one != other).double().mean() for one, other in itertools.combinations(antibodies, 2)]
    assert float(specificity(antibodies)) == pytest.approx(float(sum(pairs)) / len(pairs), abs=1e-6)


@pytest.mark.parametrize("analyzer", ANALYZERS)
@pytest.mark.parametrize("memory", [0, 4])
def test_a_fresh_net_keeps_nearly_everything(
    basis: Basis, faces: FaceSet, analyzer: str, memory: int
) -> None:
    torch.manual_seed(0)
    net = AisNet(basis, analyzer, memory).eval()
    x = torch.from_numpy(as_batch(faces.images[:2]))
    with torch.no_grad():
        coefficients, probability, suspicion, code = net.sense(x)
    assert coefficients.shape == probability.shape == (2, 32)
    assert suspicion.shape == (2,)
    assert code.shape == (2, net.selector.code_size)
    assert float(probability.min()) > 0.5


def test_shift_is_one_call_for_all_clones(basis: Basis, pack: AttackPack) -> None:
    net = AisNet(basis, memory=0).eval()
    sizes: list[int] = []

    def embed(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return torch.nn.functional.normalize(x.mean(dim=(2, 3)))

    clean, _ = pack.images(torch.arange(3), mirrored=False)
    with torch.no_grad():
        net.take_off(1.3)
        coefficients, wanted = net.space.encode(clean), embed(clean)
        antibodies = clone(torch.full((3, 32), 0.5), 4, generator())
        shift = shift_of(net, embed, clean, coefficients, wanted)(antibodies)
        kept = net.keep(clean, antibodies[2] * coefficients)
        alone = 1 - (embed(kept) * wanted).sum(dim=1)
    assert sizes == [3, 12, 3]
    assert torch.allclose(shift[2], alone, atol=1e-6)


def test_the_attacker_is_a_moving_average(basis: Basis) -> None:
    net = AisNet(basis, memory=4)
    attacker = Attacker(net)
    with torch.no_grad():
        before = net.evidence.clone()
        net.evidence += 1
    net.remember(torch.ones(2, net.selector.code_size))
    attacker.follow(net)
    assert torch.allclose(attacker.net.evidence, before + 0.1)
    assert attacker.net.memory is not None
    assert int(attacker.net.memory.filled) == 2
    assert not attacker.net.training


TINY = AisRecipe(steps=4, batch=6, sparsity=4, clones=2, depth=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient": "exact+loo"},
        {"gradient": "published", "attacker": "published", "warmup": 0.0, "rehearsed": 0.6},
        {"gradient": "straight-through", "identity": 0.0},
        {"gradient": "mean", "rehearsed": 0.0},
    ],
)
def test_training_resumes_where_it_was(
    changes: dict[str, float | str],
    basis: Basis,
    pack: AttackPack,
    guide: Recognizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("facepurify.train.loop.CHECKPOINT_EVERY", 2)
    recipe = AisRecipe(**{**vars(TINY), **changes})
    torch.manual_seed(0)
    whole = AisNet(basis, memory=4)
    halted = AisNet(basis, memory=4)
    halted.load_state_dict(whole.state_dict())
    fit_ais(whole, pack, [guide], recipe, tmp_path / "whole")

    calls = iter(range(100))

    def stop(self: AisNet, code: Tensor) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        remember(self, code)

    remember = AisNet.remember
    monkeypatch.setattr(AisNet, "remember", stop)
    with pytest.raises(KeyboardInterrupt):
        fit_ais(halted, pack, [guide], recipe, tmp_path / "halted")
    monkeypatch.setattr(AisNet, "remember", remember)
    fit_ais(halted, pack, [guide], recipe, tmp_path / "halted", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, halted.state_dict()[name], atol=1e-6), name
    header = (tmp_path / "whole" / "log.csv").read_text().splitlines()[0]
    assert {"specificity", "mutation", "sparsity_clean"} <= set(header.split(","))


def test_training_lowers_the_affinity(
    basis: Basis, pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = AisNet(basis, memory=4)
    clean, attacked = pack.images(torch.arange(len(pack)), mirrored=False)

    def loss() -> float:
        with torch.no_grad():
            coefficients, probability, _, _ = net.eval().sense(attacked)
            target = net.space.encode(clean)
            shift = shift_of(
                net, guide.embed, attacked, coefficients,
                pack.embedded(0, torch.arange(len(pack)), mirrored=False),
            )  # fmt: skip
            price = net.space.eigenvalues.sort(descending=True).values[3]
            affinity = Affinity(target, coefficients, price, 60.0, 1.0, 1.0, shift)
            return float(affinity((probability > 0.5).float()[None]).mean())

    before = loss()
    recipe = AisRecipe(
        steps=40, batch=6, sparsity=4, rate=1e-2, reconstruction=1.0, rehearsed=0.0, clones=2
    )
    fit_ais(net, pack, [guide], recipe, tmp_path / "run")
    assert loss() < 0.95 * before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient": "guess"}, "expected gradient exact"),
        ({"attacker": "none"}, "expected attacker mixed"),
        ({"clean": 0.6, "rehearsed": 0.6}, "clean, noisy, rehearsed of 1 together"),
        ({"recompressed": 1.5}, "expected recompressed from 0 to 1"),
        ({"share": 2.5}, "expected a share above 0 and at most 2, got 2.5"),
        ({"gradient": "exact+loo"}, "expected clones >= 2"),
    ],
)
def test_a_recipe_is_checked(changes: dict[str, float | str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        AisRecipe(**changes)


def test_a_guide_of_another_pack(
    basis: Basis, pack: AttackPack, shipped: Recognizer, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="expected one of the pack's guides"):
        fit_ais(AisNet(basis, memory=0), pack, [shipped], TINY, tmp_path / "run")


def test_a_run_opens_again(
    basis: Basis, pack: AttackPack, guide: Recognizer, tmp_path: Path
) -> None:
    basis.save(tmp_path / "eigenfaces.npz")
    described = {"luma": 20, "chroma": 12, "selector": "light", "memory": 4}
    describe_run(tmp_path, "AIS", eigenfaces=str(tmp_path / "eigenfaces.npz"), **described)
    net = AisNet(Basis.load(tmp_path / "eigenfaces.npz"), memory=4)
    fit_ais(net, pack, [guide], TINY, tmp_path)
    again = open_run(tmp_path)
    assert isinstance(again, AisNet)
    assert again.memory is not None
    assert net.memory is not None
    assert torch.equal(again.memory.cells, net.memory.cells)


def test_less_than_no_memory(basis: Basis) -> None:
    with pytest.raises(OptionError, match="expected 0 memory cells or more, got -1"):
        AisNet(basis, memory=-1)
