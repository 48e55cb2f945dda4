from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from facepurify.bench import steps as steps_module
from facepurify.bench.attacks import PGD, get_attack
from facepurify.bench.cache import Cache
from facepurify.bench.defences import get_defence
from facepurify.bench.evaluate import Evaluation, Measured, Protocol
from facepurify.bench.pairs import Pairs
from facepurify.bench.progress import Progress
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.results import ADAPTIVE, OBLIVIOUS, QUERY, STORED, TRANSFER
from facepurify.bench.steps import Steps
from facepurify.errors import OptionError, SeedError

PROTOCOL = Protocol(
    attacks=(get_attack("fgsm"), get_attack("pgd5")),
    eps=(8.0,),
    eps_l2=(512.0,),
    query=get_attack("square20"),
    limit=6,
    adaptive_limit=3,
    policy="probe",
    seed=0,
    draws=2,
)


@pytest.fixture(autouse=True)
def short_attacks(monkeypatch: pytest.MonkeyPatch):
    """Adaptive attacks of a few steps."""
    short = {norm: (PGD(norm, steps=5),) for norm in ("linf", "l2")}
    monkeypatch.setattr("facepurify.bench.evaluate.ADAPTIVE_ATTACKS", short)


@pytest.fixture(scope="module")
def recognizers(recognizer_files: list[Path]) -> list[Recognizer]:
    return [Recognizer.from_onnx(path, threads=1) for path in recognizer_files]


class Count(Progress):
    """Progress that can be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.made = self.skipped = self.planned = 0

    def expect(self, passes: int) -> None:
        self.planned += passes
        super().expect(passes)

    def done(self, passes: int) -> None:
        self.made += passes
        super().done(passes)

    def found(self, passes: int) -> None:
        self.skipped += passes
        super().found(passes)


def run(
    pairs: Pairs,
    folder: Path,
    recognizers: list[Recognizer],
    defences: tuple[str, ...] = ("none", "jpeg75"),
    **changes: object,
) -> tuple[Measured, Count]:
    protocol = dataclasses.replace(PROTOCOL, **changes)
    made = [get_defence(name) for name in defences]
    with Count() as progress:
        steps = Steps(Cache(folder), progress, protocol.seed)
        evaluation = Evaluation(pairs, protocol, steps, made[0])
        progress.expect(evaluation.passes(recognizers, made))
        return evaluation.run(recognizers, made), progress


def test_every_attacker_has_a_row_for_every_defence(people_pairs, recognizers, tmp_path):
    measured, progress = run(people_pairs, tmp_path, recognizers)
    kinds = [(row.recognizer, row.defence, row.attacker, row.attack) for row in measured.attacked]
    assert len(set(kinds)) == len(kinds)
    for recognizer in ("one", "two"):
        for defence in ("none", "jpeg75"):
            mine = [row for row in kinds if row[:2] == (recognizer, defence)]
            assert [row[2:] for row in mine] == [
                (OBLIVIOUS, "fgsm"),
                (TRANSFER, "fgsm"),
                (OBLIVIOUS, "pgd5"),
                (TRANSFER, "pgd5"),
                (QUERY, "square20"),
                (ADAPTIVE, "worst of 1"),
            ]
    for row in measured.attacked:
        assert row.dodging is not None
        assert row.impersonation is not None
        pairs = 3 if row.attacker in (QUERY, ADAPTIVE) else 6
        assert row.dodging.fixed.total == row.impersonation.fixed.total == pairs
        assert (row.surrogate is not None) == (row.attacker == TRANSFER)
        assert len(row.checks) == (8 if row.attacker == ADAPTIVE else 0)
    assert progress.planned == progress.made + progress.skipped


def test_attacks_that_arrive_as_files_of_another_format(
    people_pairs, recognizers, tiny_model, tmp_path
):
    measured, progress = run(
        people_pairs, tmp_path, recognizers, ("none", "grey", str(tiny_model)),
        storage=get_defence("jpeg30"),
    )  # fmt: skip
    by = {(row.recognizer, row.defence, row.attacker, row.attack): row for row in measured.attacked}
    stored = {key: row for key, row in by.items() if key[2] == STORED}
    assert len(stored) == 2 * 3 * 2  # recognizers, defences, attacks; none for the surrogates
    for (recognizer, defence, _, attack), row in stored.items():
        assert row.surrogate is None
        made = by[recognizer, defence, OBLIVIOUS, attack.removesuffix(" as jpeg30")]
        assert row.impersonation.shift != made.impersonation.shift
        assert row.impersonation.fixed.total == made.impersonation.fixed.total
        assert (row.auroc is None) == (defence != "tiny")
    assert progress.planned == progress.made + progress.skipped


def test_what_is_stored_losslessly_arrives_as_it_was(people_pairs, recognizers, tmp_path):
    measured, _ = run(people_pairs, tmp_path, recognizers[:1], storage=get_defence("none"))
    by = {(row.defence, row.attacker, row.attack): row for row in measured.attacked}
    for defence in ("none", "jpeg75"):
        made, stored = (
            by[defence, OBLIVIOUS, "pgd5"],
            by[defence, STORED, "pgd5 as none"],
        )
        assert (stored.dodging, stored.impersonation) == (made.dodging, made.impersonation)


def test_thresholds_and_clean_figures_come_from_all_pairs(people_pairs, recognizers, tmp_path):
    measured, _ = run(people_pairs, tmp_path, recognizers[:1])
    everything = recognizers[0].embed_numpy(
        people_pairs.images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    )
    impostor = (everything[people_pairs.impostor].prod(axis=1)).sum(axis=1)
    assert measured.recognizers[0].threshold == pytest.approx(impostor.max(), abs=1e-5)
    none, jpeg = measured.clean
    assert none.shift == pytest.approx(0, abs=1e-6)
    assert none.psnr is None
    assert none.frr == none.recalibrated_frr
    assert none.recalibrated_threshold == measured.recognizers[0].threshold
    assert jpeg.shift > 0
    assert jpeg.psnr is not None
    assert 0 < jpeg.ssim < 1


def test_attacks_do_what_they_say_on_an_undefended_recognizer(people_pairs, recognizers, tmp_path):
    measured, _ = run(people_pairs, tmp_path, recognizers[:1], ("none",), eps=(1.0, 16.0))
    by = {(row.attacker, row.attack, row.eps): row for row in measured.attacked}
    weak, strong = by[OBLIVIOUS, "pgd5", 1.0], by[OBLIVIOUS, "pgd5", 16.0]
    # The smallest change that there is moves every face, and fools nobody.
    assert 1e-4 < weak.dodging.shift < strong.dodging.shift / 10
    assert weak.dodging.fixed.hits <= 1
    assert strong.dodging.fixed.value == strong.impersonation.fixed.value == 1
    assert strong.roc[0] == 0
    adaptive = by[ADAPTIVE, "worst of 1", 16.0]
    assert adaptive.dodging.fixed.value == adaptive.impersonation.fixed.value == 1


def test_restarts_and_draws_reach_the_adaptive_attack(people_pairs, recognizers, tmp_path):
    changed = dataclasses.replace(PROTOCOL, restarts=3, draws=4)
    once, one = run(people_pairs, tmp_path / "1", recognizers[:1], ("none", "resize_pad100"))
    more, three = run(
        people_pairs,
        tmp_path / "3",
        recognizers[:1],
        ("none", "resize_pad100"),
        restarts=3,
        draws=4,
    )
    probes = 2 * PROTOCOL.adaptive_limit
    cost = PROTOCOL.adaptive("linf").cost(get_defence("none"))
    # Without randomness three times the passes, with it for each of two more draws as well.
    assert three.planned - one.planned == probes * cost * ((3 - 1) + (3 * 4 - 2))
    assert three.planned == three.made + three.skipped
    assert "restarts=3, draws=4" in changed.describe()["adaptive attack"]
    assert {row.attack for row in once.attacked} == {row.attack for row in more.attacked}


def test_a_second_run_is_all_found_and_the_same(people_pairs, recognizers, tmp_path):
    first, _ = run(people_pairs, tmp_path, recognizers)
    second, progress = run(people_pairs, tmp_path, recognizers)
    assert second == first
    assert progress.made == 0


def test_an_added_defence_does_not_redo_attacks(people_pairs, recognizers, tmp_path, monkeypatch):
    run(people_pairs, tmp_path, recognizers, ("none",))
    attacked = []
    original = PGD.run

    def counted(self, problem):
        attacked.append(self.steps)
        return original(self, problem)

    monkeypatch.setattr(PGD, "run", counted)
    run(people_pairs, tmp_path, recognizers, ("none", "grey"), limit=6)
    # For the new defence only: per recognizer and goal the adaptive attack and its checks.
    assert len(attacked) == 2 * 2 * (1 + 4)


def test_a_larger_limit_keeps_the_smaller_ones_pairs(
    people_pairs, recognizers, tmp_path, monkeypatch
):
    monkeypatch.setattr(steps_module, "CHUNK", 2)
    run(people_pairs, tmp_path, recognizers[:1], ("none",), limit=4)
    _, second = run(people_pairs, tmp_path, recognizers[:1], ("none",), limit=6)
    attacks = sum(attack.cost for attack in PROTOCOL.attacks)
    # Two pairs more of each kind to attack, and to judge by both attacks.
    assert second.made == 2 * 2 * attacks + 2 * 2 * 2


def test_results_do_not_depend_on_the_chunks(people_pairs, recognizers, tmp_path, monkeypatch):
    whole, _ = run(people_pairs, tmp_path / "whole", recognizers[:1])
    monkeypatch.setattr(steps_module, "CHUNK", 2)
    parts, _ = run(people_pairs, tmp_path / "parts", recognizers[:1])
    for one, other in zip(whole.attacked, parts.attacked, strict=True):
        assert one.dodging.fixed == other.dodging.fixed
        assert one.impersonation.fixed == other.impersonation.fixed


def test_the_gallery_is_purified_by_policy(people_pairs, recognizers, tmp_path):
    probe, _ = run(people_pairs, tmp_path, recognizers[:1], ("none", "jpeg5"))
    both, _ = run(people_pairs, tmp_path, recognizers[:1], ("none", "jpeg5"), policy="both")
    assert both.clean[0] == probe.clean[0]
    assert both.clean[1].recalibrated_threshold != probe.clean[1].recalibrated_threshold
    # Attacks that go for the purified gallery are others, and not taken from the cache.
    fresh, _ = run(
        people_pairs, tmp_path / "fresh", recognizers[:1], ("none", "jpeg5"), policy="both"
    )
    assert fresh == both


def test_the_suspicion_score_is_rated(people_pairs, recognizers, tiny_model, tmp_path):
    measured, _ = run(people_pairs, tmp_path, recognizers[:1], ("none", str(tiny_model)))
    rated = {row.defence: row.auroc for row in measured.attacked}
    assert rated["none"] is None
    assert 0 <= rated["tiny"] <= 1


def test_attacks_of_one_goal_and_of_another_norm(people_pairs, recognizers, tmp_path):
    attacks = (get_attack("label_free3"), get_attack("pgd3-l2"))
    measured, progress = run(people_pairs, tmp_path, recognizers[:1], ("none",), attacks=attacks)
    rows = {(row.attacker, row.attack): row for row in measured.attacked}
    assert rows[OBLIVIOUS, "label_free3"].impersonation is None
    assert rows[OBLIVIOUS, "pgd3-l2"].eps == 512
    assert {row.norm for row in measured.attacked if row.attacker == ADAPTIVE} == {"linf", "l2"}
    details = [check.detail for row in measured.attacked for check in row.checks]
    # The unbounded attack is that of the row's own norm: 255 sqrt(3 * 112 * 112) in L2.
    assert any("with eps 255" in detail for detail in details)
    assert any("with eps 49467.4" in detail for detail in details)
    assert progress.planned == progress.made + progress.skipped


def test_smallest_distances(people_pairs, recognizers, tmp_path):
    measured, progress = run(
        people_pairs, tmp_path, recognizers[:1], ("none",), distances=True, eps=(2.0, 8.0)
    )
    rows = [row for row in measured.attacked if row.attacker == ADAPTIVE]
    assert 0 < rows[0].dodging.distance == rows[1].dodging.distance <= 16
    assert 0 < rows[0].impersonation.distance <= 16
    assert progress.planned == progress.made + progress.skipped


def test_budgets_of_part_of_a_grey_level_are_for_l2():
    assert dataclasses.replace(PROTOCOL, eps=(1.0, 255.0), eps_l2=(0.5,)).budgets("l2") == (0.5,)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attacks": ()}, OptionError, "at least one attack"),
        ({"limit": 0}, OptionError, "limit >= 1, got 0"),
        ({"adaptive_limit": -1}, OptionError, "adaptive limit >= 1"),
        ({"restarts": 0}, OptionError, "number of restarts >= 1, got 0"),
        ({"draws": -3}, OptionError, "number of draws >= 1, got -3"),
        ({"eps": (8.0, 0.0)}, OptionError, "whole grey levels from 1 to 255, got 0.0: "),
        ({"eps": (0.03,)}, OptionError, "whole grey levels from 1 to 255, got 0.03: .* times 255"),
        ({"eps": (8.5,)}, OptionError, "whole grey levels from 1 to 255, got 8.5: "),
        ({"eps": (256.0,)}, OptionError, "whole grey levels from 1 to 255, got 256.0: "),
        ({"eps": (float("nan"),)}, OptionError, "whole grey levels from 1 to 255, got nan: "),
        ({"eps_l2": (float("nan"),)}, OptionError, "L2 eps > 0"),
        ({"eps_l2": (512.0, 0.0)}, OptionError, "L2 eps > 0"),
        ({"seed": -1}, SeedError, "seed >= 0"),
    ],
)
def test_protocols_without_sense_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(PROTOCOL, **changes)
