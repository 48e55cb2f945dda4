"""The search in numpy: each affinity against its definition, evolution, memory."""

from __future__ import annotations

import contextlib
import copy
import errno
import io
import itertools
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facepurify.errors import (
    DataError,
    ModelContractError,
    ModelOutputError,
    OptionError,
    OutputError,
)
from facepurify.memory import Memory
from facepurify.onnxfile import read_constants
from facepurify.search import (
    Search,
    SearchOptions,
    Sensed,
    agreement,
    consistency,
    critique,
    evolve,
    likeness,
    search_options,
)

N, K, C = 5, 24, 6


@pytest.fixture
def sensed() -> Sensed:
    rng = np.random.default_rng(0)
    return Sensed(
        np.zeros((N, 3, 112, 112), np.float32)
        + np.arange(N, dtype=np.float32)[:, None, None, None],
        rng.normal(size=(N, K)).astype(np.float32),
        rng.random((N, K), np.float32),
        rng.normal(size=(N, C)).astype(np.float32),
    )


def draws(seed: int = 1, generations: int = 4, clones: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).random((generations, clones, K), np.float32)


def clones_of(sensed: Sensed, count: int = 9) -> np.ndarray:
    uniform = np.random.default_rng(2).random((count, K))
    return (sensed.probability[:, None] > uniform).astype(np.float32)


def test_the_best_of_all_is_kept(sensed: Sensed) -> None:
    target = np.random.default_rng(3).random((N, 1, K)) > 0.5
    worths: list[np.ndarray] = []

    def score(clones: np.ndarray) -> np.ndarray:
        worth = -np.abs(clones - target).sum(axis=2)
        worths.append(worth.max(axis=1))
        return worth

    best, worth = evolve(sensed.probability, score, draws())
    assert set(np.unique(best)) <= {0.0, 1.0}
    assert len(worths) == 4
    assert all((after >= before).all() for before, after in itertools.pairwise(worths))
    assert np.array_equal(worth, worths[-1])
    assert np.array_equal(worth, -np.abs(best - target[:, 0]).sum(axis=1))
    assert (worth > worths[0]).any()


def test_a_result_depends_on_the_draws_only(sensed: Sensed) -> None:
    weight = np.random.default_rng(4).normal(size=K).astype(np.float32)

    def score(clones: np.ndarray) -> np.ndarray:
        return np.tanh(clones * weight).prod(axis=2) + clones @ weight

    whole = evolve(sensed.probability, score, draws())[0]
    assert np.array_equal(whole, evolve(sensed.probability, score, draws())[0])
    alone = [evolve(sensed.probability[i : i + 1], score, draws())[0][0] for i in range(N)]
    assert np.array_equal(whole, alone)


def test_a_certain_gene_never_mutates(sensed: Sensed) -> None:
    probability = np.tile(np.float32([0, 1, 0.5] * (K // 3)), (N, 1))
    best, _ = evolve(probability, lambda clones: -clones @ probability[0], draws())
    assert np.array_equal(best[:, 0::3], np.zeros((N, K // 3)))
    assert np.array_equal(best[:, 1::3], np.ones((N, K // 3)))


def test_what_is_remembered_competes(sensed: Sensed) -> None:
    remembered = clones_of(sensed)[:, 3]

    def score(clones: np.ndarray) -> np.ndarray:
        return -np.abs(clones - remembered[:, None]).sum(axis=2)

    best, worth = evolve(sensed.probability, score, draws(generations=1), remembered)
    assert np.array_equal(best, remembered)
    assert np.array_equal(worth, np.zeros(N))


def test_agreement_picks_the_medoid(sensed: Sensed) -> None:
    clones = clones_of(sensed)
    faces = (clones * sensed.coefficients[:, None]).astype(np.float64)
    distance = ((faces[:, :, None] - faces[:, None]) ** 2).sum(axis=3).mean(axis=2)
    worth = agreement(sensed)(clones)
    # The mean squared distance to all, up to what all clones of a face share.
    assert np.allclose(
        worth - worth.mean(1, keepdims=True), distance.mean(1, keepdims=True) - distance, atol=1e-4
    )
    assert np.array_equal(worth.argmax(axis=1), distance.argmin(axis=1))


def test_consistency_without_evidence_follows_the_threshold_mask(sensed: Sensed) -> None:
    """Where noise moves no p, what comes out is the threshold mask of the noisy face."""
    score = consistency(sensed, np.zeros(K, np.float32), np.ones(K, np.float32))
    plain = (sensed.probability > 0.5).astype(np.float32)
    large = np.abs(sensed.coefficients) > 0.1
    flipped = np.repeat(plain[:, None], K, axis=1)
    flipped[:, np.arange(K), np.arange(K)] = 1 - plain
    worse = score(plain[:, None]) - score(flipped)
    assert (worse[large] > 0).all()


def test_consistency_is_the_distance_to_noisy_responses(sensed: Sensed) -> None:
    rng = np.random.default_rng(5)
    evidence = rng.normal(size=K).astype(np.float32)
    deviations = rng.random(K, np.float32) + np.float32(0.5)
    clones = clones_of(sensed)
    c = sensed.coefficients.astype(np.float64)
    p = sensed.probability.astype(np.float64)
    noise = np.random.default_rng(0).standard_normal((8, 1, K), np.float32) * (2 / 255)
    rest = np.log(p / (1 - p)) - evidence * np.log((c / deviations) ** 2 + 1e-3)
    logit = rest + evidence * np.log(((c + noise) / deviations) ** 2 + 1e-3)
    response = (logit > 0) * (c + noise)
    distance = (
        ((clones[:, :, None] * c[:, None, None] - response.transpose(1, 0, 2)[:, None]) ** 2)
        .sum(3)
        .mean(2)
    )
    worth = consistency(sensed, evidence, deviations)(clones)
    assert np.allclose(
        worth - worth.mean(1, keepdims=True), distance.mean(1, keepdims=True) - distance, atol=1e-3
    )


def test_critic_is_that_of_training(sensed: Sensed) -> None:
    torch = pytest.importorskip("torch", reason="needs torch to compare with")
    from facepurify.train.critic import AffinityCritic

    torch.manual_seed(0)
    critic = AffinityCritic(K, C)
    deviations = np.random.default_rng(6).random(K, np.float32) + np.float32(0.5)
    clones = clones_of(sensed)
    weights = {name: value.detach().numpy() for name, value in critic.state_dict().items()}
    weights["genes"] = weights["genes"].reshape(3, -1)
    with torch.no_grad():
        theirs = critic(
            torch.from_numpy(sensed.code),
            torch.from_numpy(sensed.coefficients / deviations),
            torch.from_numpy(clones.transpose(1, 0, 2).copy()),
        ).numpy()
    assert np.allclose(critique(sensed, weights, deviations)(clones), theirs.T, atol=1e-5)


def test_likeness_asks_the_recognizer_once_for_all(sensed: Sensed) -> None:
    seen: list[np.ndarray] = []

    def keep(images: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        assert np.array_equal(images[:, 0, 0, 0], np.repeat(np.arange(N), 9))
        faces = np.zeros((len(coefficients), 3, 112, 112), np.float32)
        faces[:, :, 0, :K] = (
            np.abs(coefficients[:, None]).clip(0, 1) * np.float32([1, 0.5, 0])[:, None]
        )
        return faces

    def recognize(crops: np.ndarray) -> np.ndarray:
        seen.append(crops)
        return crops[:, 0, :K, 2].astype(np.float32) + 1

    clones = clones_of(sensed)
    worth = likeness(sensed, keep, recognize)(clones)
    assert len(seen) == 1
    assert seen[0].shape == (N * 9, 112, 112, 3)
    assert seen[0].dtype == np.uint8
    assert not seen[0][..., 0].any()  # blue is the first of BGR
    embedded = recognize(seen[0]).reshape(N, 9, K)
    unit = embedded / np.linalg.norm(embedded, axis=2, keepdims=True)
    assert np.allclose(worth, (unit * unit.mean(1, keepdims=True)).sum(2), atol=1e-5)
    for wrong in (np.zeros(3), np.zeros((N * 9, 0)), np.full((N * 9, 2), np.nan), None):
        with pytest.raises(ModelOutputError, match="expected finite embeddings"):
            likeness(sensed, keep, lambda crops, wrong=wrong: wrong)(clones)
    for wrong in ([[1, 2], [3]], [[10**400]], "none"):
        with pytest.raises(ModelOutputError, match="expected embeddings"):
            likeness(sensed, keep, lambda crops, wrong=wrong: wrong)(clones)
    # What the recognizer gave is its own: it may hand out the same array again, or a locked one.
    given = np.full((N * 9, 4), 7, np.float32)
    given.flags.writeable = False
    assert np.allclose(likeness(sensed, keep, lambda crops: given)(clones), 1)


@pytest.fixture(scope="module")
def constants() -> dict[str, np.ndarray]:
    path = Path(__file__).parents[1] / "models" / "ais.onnx"
    return read_constants(path.read_bytes())


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("search.critic.genes.half", lambda a: a[:2], "genes of"),
        ("search.critic.genes.half", lambda a: a[:, :-1], "genes of"),
        ("search.critic.code.weight", lambda a: a[:-1], "code.weight of"),
        ("search.critic.code.bias", lambda a: a * np.nan, "finite numbers in search.critic.code"),
        ("search.critic.head.weight", lambda a: a[:, :-1], "head.weight of"),
        ("search.critic.head.weight", lambda a: a[0], "head.weight of"),
        ("net.space.luma.mean", lambda a: a * np.inf, "finite numbers in net.space.luma.mean"),
        ("net.space.luma.dct", lambda a: a.repeat(2, 0), "up to 112 x 112"),
        ("net.space.chroma.mean", lambda a: a[:-1], "chroma.symmetric of"),
        ("net.space.luma.symmetric.half", lambda a: a[:, :-1], "1400 eigenfaces to search"),
        ("net.space.eigenvalues", lambda a: -a, "eigenvalues above 0"),
        ("search.luma.frequencies", lambda a: a - 1, "frequencies of 65 x 65"),
    ],
)
def test_numbers_that_cannot_be_searched_with(
    constants: dict[str, np.ndarray],
    name: str,
    change: Callable[[np.ndarray], np.ndarray],
    match: str,
) -> None:
    Search(constants, 1400, SearchOptions())
    with np.errstate(invalid="ignore"):
        changed = {**constants, name: change(constants[name])}
    with pytest.raises(ModelContractError, match=match):
        Search(changed, 1400, SearchOptions())


def test_planes_that_share_no_frequencies(constants: dict[str, np.ndarray]) -> None:
    changed = copy.copy(constants)
    for name in ("mean", "symmetric.half"):
        changed[f"net.space.chroma.{name}"] = constants[f"net.space.chroma.{name}"][:-1]
    with pytest.raises(ModelContractError, match="of 2 planes"):
        Search(changed, 1400, SearchOptions())


@pytest.mark.parametrize("budget", [(0, 1), (4,), 5, (2.0, 1), (True, 1), "ab", (1 << 7, 1 << 6)])
def test_a_budget_is_checked(budget: object) -> None:
    with pytest.raises(OptionError, match="expected"):
        SearchOptions(budget)  # type: ignore[arg-type]


def test_options_of_a_search() -> None:
    assert search_options(None, None, None, False) is None
    assert search_options((3, 2), None, None, False) == SearchOptions((3, 2), "critic", None, False)
    with pytest.raises(OptionError, match="expected an affinity of critic"):
        search_options(None, "luck", None, False)
    with pytest.raises(OptionError, match="an affinity or a recognizer"):
        search_options(None, "critic", len, False)
    with pytest.raises(OptionError, match="can be called"):
        search_options(None, None, 3, False)  # type: ignore[arg-type]


def antibodies(rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.random((count, K)) > 0.5).astype(np.float32)


def test_memory_recalls_what_is_alike_and_nothing_else() -> None:
    rng = np.random.default_rng(7)
    memory, codes, kept = Memory(K), np.eye(4, C, dtype=np.float32), antibodies(rng, 4)
    otherwise = antibodies(rng, 2)
    asked = np.stack([3 * codes[2] + 0.1, -codes[1]])
    assert np.array_equal(memory.recall(asked, otherwise), otherwise)
    memory.keep(codes, kept)
    recalled = memory.recall(asked, otherwise)
    assert np.array_equal(recalled, np.stack([kept[2], otherwise[1]]))


def test_memory_is_bounded_and_drops_the_oldest(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    memory, codes, kept = Memory(K, capacity=3), np.eye(5, C, dtype=np.float32), antibodies(rng, 5)
    memory.keep(codes, kept)
    assert len(memory) == 3
    blank = np.zeros((5, K), np.float32)
    recalled = memory.recall(codes, blank)
    assert np.array_equal(recalled[2:], kept[2:])
    assert not recalled[:2].any()
    memory.save(tmp_path / "cells.npz")
    again = Memory(K, capacity=3)
    again.load(tmp_path / "cells.npz")
    assert np.array_equal(again.recall(codes, blank), recalled)
    memory.forget()
    assert len(memory) == 0
    memory.save(tmp_path / "empty.npz")
    again.load(tmp_path / "empty.npz")
    assert len(again) == 0


def test_memory_keeps_the_order_through_a_file(tmp_path: Path) -> None:
    codes, kept = np.eye(C, dtype=np.float32), antibodies(np.random.default_rng(8), C)
    memory, again = Memory(K, capacity=3), Memory(K, capacity=3)
    memory.keep(codes[:4], kept[:4])  # 3 at the place of 0; the oldest is 1
    memory.save(tmp_path / "cells.npz")
    again.load(tmp_path / "cells.npz")
    again.keep(codes[4:5], kept[4:5])
    recalled = again.recall(codes, np.full((C, K), 2, np.float32))
    assert [row.max() < 2 for row in recalled] == [False, False, True, True, True, False]


def test_memory_refuses_codes_of_another_length(tmp_path: Path) -> None:
    other, memory = Memory(K), Memory(K)
    one = np.ones((1, K), np.float32)
    other.keep(np.ones((1, C + 1), np.float32), one)
    other.save(tmp_path / "other.npz")
    code = np.ones((1, C), np.float32)
    memory.keep(code, one)
    with pytest.raises(DataError, match="expected codes of 6 numbers"):
        memory.load(tmp_path / "other.npz")
    assert np.array_equal(memory.recall(code, 0 * one), one)
    memory.forget()
    memory.load(tmp_path / "other.npz")  # nothing tells yet that it is another's
    for use in (memory.recall, memory.keep):
        with pytest.raises(DataError, match="forget them"):
            use(code, one)
    memory.forget()
    memory.keep(code, one)


def test_memory_that_is_damaged_anywhere(tmp_path: Path) -> None:
    memory, rng = Memory(K), np.random.default_rng(10)
    memory.keep(rng.normal(size=(20, C)).astype(np.float32), antibodies(rng, 20))
    memory.save(tmp_path / "cells.npz")
    content = (tmp_path / "cells.npz").read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with contextlib.suppress(DataError):
            Memory(K).load(tmp_path / "damaged.npz")


def test_memory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="could not put"):
        Memory(K).save(tmp_path / ("a" * 252 + ".npz"))  # one byte too many
    with pytest.raises(OutputError, match="expected a folder"):
        Memory(K).save(tmp_path / "no" / "cells.npz")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match=r"could not write .*No space left"):
        Memory(K).save(tmp_path / "cells.npz")
    assert not list(tmp_path.iterdir())


def test_memory_refuses_another_model_s_cells(tmp_path: Path) -> None:
    other = Memory(K + 1)
    other.keep(np.ones((1, C), np.float32), np.ones((1, K + 1), np.float32))
    other.save(tmp_path / "other.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    memory = Memory(K)
    memory.keep(np.ones((1, C), np.float32), np.ones((1, K), np.float32))
    for name in ("other.npz", "bad.npz", "absent.npz"):
        with pytest.raises(DataError, match="expected the memory of a model"):
            memory.load(tmp_path / name)
    assert len(memory) == 1


def test_memory_refuses_what_would_unpack_without_end(tmp_path: Path) -> None:
    memory = Memory(K)
    np.savez_compressed(tmp_path / "bomb.npz", codes=np.zeros((1 << 25,), np.float32))
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 10)}
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, header)
        for name in ("codes", "antibodies", "length"):
            archive.writestr(f"{name}.npy", file.getvalue())
    (tmp_path / "array.npy").write_bytes(file.getvalue())
    for name in ("bomb.npz", "claims.npz", "array.npy"):
        assert (tmp_path / name).stat().st_size < 1 << 20
        with pytest.raises(DataError, match="expected the memory of a model"):
            memory.load(tmp_path / name)


def test_memory_serves_threads() -> None:
    memory, rng = Memory(K, capacity=50), np.random.default_rng(9)
    codes = rng.normal(size=(40, C)).astype(np.float32)
    kept = antibodies(rng, 40)
    failures: list[int] = []

    def work(place: int) -> None:
        for _ in range(50):
            memory.keep(codes[place : place + 1], kept[place : place + 1])
            recalled = memory.recall(codes[place : place + 1], kept[place : place + 1])
            if not any(np.array_equal(recalled[0], row) for row in kept):
                failures.append(place)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(memory) == 50
