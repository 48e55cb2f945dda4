from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facepurify.bench.latency import relative_latency
from facepurify.bench.results import read_results, write_results
from facepurify.errors import DataError, OutputError
from tests.bench.sample_results import sample_results


def test_what_is_written_is_read(tmp_path: Path):
    results = sample_results()
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results


def _without(content, *path):
    *parents, last = path
    for part in parents:
        content = content[part]
    del content[last]


def _with(content, value, *path):
    *parents, last = path
    for part in parents:
        content = content[part]
    content[last] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: _with(c, 2, "schema"), "schema 1, got 2"),
        (lambda c: _without(c, "schema"), "schema 1, got None"),
        (lambda c: _without(c, "data", "sha256"), r"results\.json\.data: sha256"),
        (lambda c: _with(c, 1, "data", "more"), r"results\.json\.data: more"),
        (lambda c: _with(c, "8", "attacked", 3, "eps"), r"float in results\.json\.attacked\[3\]"),
        (lambda c: _with(c, True, "data", "faces"), r"int in results\.json\.data\.faces"),
        (lambda c: _with(c, 0.5, "attacked", 0, "dodging", "fixed", "hits"), "int in"),
        (lambda c: _with(c, {}, "clean"), r"results\.json\.clean"),
        (lambda c: _with(c, float("nan"), "clean", 0, "frr"), "float in"),
        (lambda c: _with(c, None, "clean", 0, "ssim"), "float in"),
        (lambda c: _with(c, 3, "settings", "seed"), "str in"),
    ],
)
def test_another_shape_is_refused(tmp_path: Path, change, message: str):
    path = tmp_path / "results.json"
    write_results(sample_results(), path)
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(DataError, match=message):
        read_results(path)


@pytest.mark.parametrize("text", ["", "[", "[]", '"results"'])
def test_what_is_no_results_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "results.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError):
        read_results(path)


def test_missing_folders_and_files_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="cannot read"):
        read_results(tmp_path / "nowhere.json")
    with pytest.raises(OutputError):
        write_results(sample_results(), tmp_path / "nowhere" / "results.json")


def test_latency_is_a_ratio_of_medians(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    spent = {"defence": iter([9, 1, 2, 3]), "recognizer": iter([9, 4, 4, 100])}

    def step(name):
        def run(images):
            clock[0] += next(spent[name])

        return run

    images = np.zeros((1, 3, 112, 112), np.float32)
    ratio = relative_latency(step("defence"), step("recognizer"), images, repeats=3)
    assert ratio == 0.5
