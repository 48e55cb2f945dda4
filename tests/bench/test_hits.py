from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facepurify.bench import hits as hits_module
from facepurify.bench import metrics
from facepurify.bench.__main__ import main
from facepurify.bench.attacks import FGSM, PGD, FeatureTarget, LabelFree
from facepurify.bench.hits import (
    TRIALS,
    Hits,
    Trial,
    measure_hits,
    read_hits,
    render_hits,
)
from facepurify.bench.metrics import Rate
from facepurify.bench.pairs import Pairs
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.records import write_record
from facepurify.bench.steps import to_float
from facepurify.errors import DataError, OptionError, SeedError
from tests.bench.sample_results import sample_hits


@pytest.fixture(scope="module")
def recognizers(recognizer_files: list[Path]) -> list[Recognizer]:
    return [Recognizer.from_onnx(path, threads=1) for path in recognizer_files]


@pytest.fixture(scope="module")
def measured(people_pairs: Pairs, recognizers, tmp_path_factory: pytest.TempPathFactory) -> Hits:
    return measure_hits(people_pairs, recognizers, tmp_path_factory.mktemp("out"), limit=6, seed=0)


def test_the_attacks_are_the_papers_and_a_stronger_one():
    assert [(trial.attack, trial.goal, trial.eps) for trial in TRIALS] == [
        (FGSM(), "impersonation", 5),
        (FGSM(), "impersonation", 10),
        (FeatureTarget(steps=10), "impersonation", 5),
        (FeatureTarget(steps=10), "impersonation", 10),
        (LabelFree(steps=10), "dodging", 5),
        (LabelFree(steps=10), "dodging", 10),
        (PGD(steps=40), "impersonation", 8),
        (PGD(steps=40), "impersonation", 10),
    ]


def test_every_recognizer_has_its_own_threshold_and_clean_figures(
    measured: Hits, people_pairs: Pairs, recognizers: list[Recognizer]
):
    for info, recognizer in zip(measured.recognizers, recognizers, strict=True):
        clean = recognizer.embed_numpy(to_float(people_pairs.images)).astype(np.float64)
        genuine, impostor = (
            (clean[pairs[:, 0]] * clean[pairs[:, 1]]).sum(1)
            for pairs in (people_pairs.genuine, people_pairs.impostor)
        )
        # Of 90 impostor pairs FAR 1e-3 accepts none.
        assert info.threshold == pytest.approx(impostor.max(), abs=1e-5)
        assert info.threshold > impostor.max() - 1e-5
        assert info.frr == np.mean(genuine < info.threshold)
        assert info.sha256 == recognizer.sha256
        assert 0.5 < info.accuracy <= 1
    one, two = measured.recognizers
    assert one.threshold != two.threshold


def test_hits_are_counted_on_the_attacked_8_bit_images(
    people_pairs: Pairs,
    recognizers: list[Recognizer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The fast attack, done by hand: one sign step of the cosine's gradient."""
    trial = Trial("fast", FGSM(), "impersonation", 10.0)
    monkeypatch.setattr(hits_module, "TRIALS", (trial,))
    count = len(people_pairs.impostor)
    found = measure_hits(people_pairs, recognizers[:1], tmp_path, limit=count, seed=0)
    (row,) = found.rows
    recognizer = recognizers[0]
    probes, gallery = people_pairs.impostor.T
    levels = torch.tensor(people_pairs.images[probes]).permute(0, 3, 1, 2).float()
    levels.requires_grad_()
    victims = torch.tensor(
        recognizer.embed_numpy(to_float(people_pairs.images[gallery])), dtype=torch.float32
    )
    (recognizer.embed(levels / 255) * victims).sum().backward()
    attacked = (levels.detach() + 10 * levels.grad.sign()).clamp(0, 255)
    scores = metrics.cosine(recognizer.embed_numpy(attacked.numpy() / 255), victims.numpy())
    near = np.abs(scores - found.recognizers[0].threshold) < 1e-4
    assert not near.any()
    assert row.rate == Rate.count(scores >= found.recognizers[0].threshold)
    assert 0 < row.rate.hits < count


def test_every_trial_has_a_row_for_every_recognizer(measured: Hits):
    keys = [(row.recognizer, row.attack, row.goal, row.eps) for row in measured.rows]
    assert keys == [
        (name, trial.label, trial.goal, trial.eps) for name in ("one", "two") for trial in TRIALS
    ]
    assert all(row.rate.total == 6 for row in measured.rows)
    assert {row.key for row in measured.rows} == {trial.attack.key() for trial in TRIALS}


def test_the_iterative_attack_hits_at_least_as_often_as_with_less_budget(measured: Hits):
    hits = {(row.recognizer, row.attack, row.eps): row.rate.hits for row in measured.rows}
    for name in ("one", "two"):
        assert (
            hits[name, "iterative feature-target", 10] >= hits[name, "iterative feature-target", 5]
        )
        assert hits[name, "iterative feature-target", 10] > 0


def test_finished_work_is_not_done_again(
    people_pairs: Pairs,
    recognizers: list[Recognizer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    short = (Trial("short", PGD(steps=2), "impersonation", 8.0),)
    monkeypatch.setattr(hits_module, "TRIALS", short)
    first = measure_hits(people_pairs, recognizers, tmp_path, limit=3, seed=0)

    def never(self, problem):
        raise AssertionError("the attack was cached")

    monkeypatch.setattr(PGD, "run", never)
    again = measure_hits(people_pairs, recognizers, tmp_path, limit=3, seed=0)
    assert (again.recognizers, again.rows) == (first.recognizers, first.rows)
    with pytest.raises(AssertionError, match="was cached"):
        measure_hits(people_pairs, recognizers, tmp_path, limit=3, seed=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"limit": 0, "seed": 0}, OptionError, "limit >= 1, got 0"),
        ({"limit": 1, "seed": -1}, SeedError, "seed >= 0, got -1"),
    ],
)
def test_numbers_without_sense_are_refused(
    people_pairs: Pairs, recognizers: list[Recognizer], tmp_path: Path, options, error, message
):
    with pytest.raises(error, match=message):
        measure_hits(people_pairs, recognizers, tmp_path, **options)
    with pytest.raises(OptionError, match="different names"):
        measure_hits(people_pairs, recognizers[:1] * 2, tmp_path, limit=1, seed=0)


def test_what_is_written_is_read(tmp_path: Path):
    write_record(sample_hits(), tmp_path / "hits.json")
    assert read_hits(tmp_path / "hits.json") == sample_hits()
    (tmp_path / "hits.json").write_text('{"schema": 1}', "utf-8")
    with pytest.raises(DataError, match=r"hits\.json"):
        read_hits(tmp_path / "hits.json")


def test_the_table_has_a_column_for_each_recognizer():
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in render_hits(sample_hits()).splitlines()
        if line.startswith("|")
    ]
    assert cells[0] == ["faces: hits", "eps", "pairs", "plain", "hard"]
    assert cells[2:] == [
        ["accuracy, 10-fold", "-", "600", "98.9 ± 0.4", "98.1 ± 0.5"],
        ["threshold at FAR 0.1 %", "-", "300", "0.326", "0.410"],
        ["rejected without an attack", "-", "300", "3.0", "5.0"],
        ["fast", "5", "4", "75.0 [30.1, 95.4]", "0.0 [0.0, 49.0]"],
        ["label-free (dodging)", "10", "4", "100.0 [51.0, 100.0]", "-"],
    ]


def test_the_command(
    people_pairs: Pairs,
    recognizer_files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
):
    for index, image in enumerate(people_pairs.images):
        folder = tmp_path / "faces" / f"P{index // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index % 2}.png"), np.ascontiguousarray(image[..., ::-1]))
    short = (Trial("short", PGD(steps=2), "impersonation", 8.0),)
    monkeypatch.setattr(hits_module, "TRIALS", short)
    files = [text for path in recognizer_files for text in ("--recognizer", str(path))]
    out = tmp_path / "out"
    arguments = ["hits", *files, "--limit", "3", "--out", str(out), "--threads", "1"]
    assert main([*arguments, "--data", str(tmp_path / "faces")]) == 0
    table = (out / "hits.md").read_text("utf-8")
    assert table == render_hits(read_hits(out / "hits.json"))
    assert table in capsys.readouterr().out
    assert [info.name for info in read_hits(out / "hits.json").recognizers] == ["one", "two"]
    picture = (out / "hits.svg").read_text("utf-8")
    assert all(f"<!-- {text} -->" in picture for text in ("one", "two", "short, 8"))
    assert main(arguments) == 1
    assert "expected --data" in capsys.readouterr().err
    assert main(["hits", "--recognizer", "recogniser", "--data", str(tmp_path / "faces")]) == 1
    assert "got 'recogniser'" in capsys.readouterr().err
