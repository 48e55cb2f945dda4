"""Attackers who hide from the score: what is counted, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facepurify.bench import hiding as hiding_module
from facepurify.bench.__main__ import main
from facepurify.bench.adaptive import AdaptiveAttack
from facepurify.bench.attacks import PGD
from facepurify.bench.defences import get_defence
from facepurify.bench.hiding import (
    Hiding,
    _Judge,
    measure_hiding,
    read_hiding,
    render_hiding,
)
from facepurify.bench.pairs import Pairs
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.steps import Faces, Target
from facepurify.errors import DataError, OptionError

LIMIT = 3


@pytest.fixture(scope="module")
def recognizer(recognizer_files: list[Path]) -> Recognizer:
    return Recognizer.from_onnx(recognizer_files[0], threads=1)


@pytest.fixture(scope="module")
def measured(
    people_pairs: Pairs, recognizer: Recognizer, tmp_path_factory: pytest.TempPathFactory
) -> Hiding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hiding_module, "ATTACK", AdaptiveAttack((PGD(steps=6),)))
        patch.setattr(hiding_module, "PRICES", (0.02, 0.5))
        return measure_hiding(
            people_pairs, recognizer, [get_defence("pin")], tmp_path_factory.mktemp("out"),
            limit=LIMIT, eps=(8.0,), seed=0,
        )  # fmt: skip


def test_each_attacker_and_goal_is_counted(measured: Hiding) -> None:
    assert [(row.attacker, row.goal, row.eps) for row in measured.rows] == [
        (attacker, goal, 0.0 if attacker == "no attack" else 8.0)
        for goal in ("dodging", "impersonation")
        for attacker in ("no attack", "adaptive", "adaptive, hiding")
    ]
    for row in measured.rows:
        assert row.fooled.total == row.unnoticed.total == row.found.total == LIMIT
        # Whoever succeeds is found or unnoticed.
        assert 0 <= row.fooled.hits - row.unnoticed.hits <= row.found.hits
    assert measured.settings["prices"] == "0.02, 0.5"


def test_of_several_tries_the_one_that_serves_best_counts(
    people_pairs: Pairs, recognizer: Recognizer
) -> None:
    defence = get_defence("pin")
    assert defence.score_threshold is not None
    quiet, loud = defence.score_threshold / 2, 1.0
    judge = _Judge(recognizer, None, people_pairs.images, np.zeros((1, 1)), 0.3)  # type: ignore[arg-type]
    target = Target(
        recognizer, defence, Faces(people_pairs.images[:3], np.zeros((3, 1))), "dodging"
    )
    tries = [
        (np.array([0.1, 0.1, 0.5]), np.array([loud, loud, loud])),
        (np.array([0.2, 0.5, 0.5]), np.array([quiet, quiet, quiet])),
    ]
    row = judge._row("adaptive, hiding", target, 8.0, tries)
    # The first is fooled unnoticed, the second only with an alarm, the third not at all.
    assert (row.fooled.hits, row.unnoticed.hits, row.found.hits) == (2, 1, 1)


def test_the_record_is_read_as_it_was_written(measured: Hiding, tmp_path: Path) -> None:
    hiding_module.write_record(measured, tmp_path / "hiding.json")
    assert read_hiding(tmp_path / "hiding.json") == measured
    table = render_hiding(measured)
    assert table.count("\n| pin") == 6
    with pytest.raises(DataError, match="no"):
        read_hiding(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("names", "eps", "message"),
    [
        (["jpeg75"], 8.0, "whose score has a threshold, got jpeg75"),
        (["pin", "pin"], 8.0, "different names"),
        (["pin"], 0.5, "whole grey levels"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    people_pairs: Pairs, recognizer: Recognizer, tmp_path: Path, names, eps, message
) -> None:
    with pytest.raises(OptionError, match=message):
        measure_hiding(
            people_pairs, recognizer, [*map(get_defence, names)], tmp_path, limit=1, eps=(eps,),
            seed=0,
        )  # fmt: skip


def test_the_command_needs_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hiding"]) == 1
    assert "expected --data" in capsys.readouterr().err
