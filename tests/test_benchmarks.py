"""That the benchmarks run, on sizes that measure nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """Import a benchmark by its file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


class TestSoak:
    """Memory over time."""

    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
    def test_two_seconds(self, tmp_path, tiny_model):
        pytest.importorskip("insightface", reason="needs insightface for its bundled photos")
        out = tmp_path / "soak.json"
        # the limit is not for seconds: caches still fill
        done = run(
            "soak", "--minutes", 2 / 60, "--limit", 1000, "--model", tiny_model, "--out", out
        )
        assert done.returncode == 0, done.stdout + done.stderr
        record = json.loads(out.read_text())
        assert record["different"] == {}
        assert len(record["calls"]) == 7
        assert record["megabytes"]["highest"] > 10

    def test_growth(self):
        growth = script("soak").growth
        assert growth([100.0] * 50) == 0
        assert growth([100.0 + number for number in range(50)]) == pytest.approx(38.3, abs=0.1)
        assert growth([100, 500, *[100] * 48]) == 0  # a peak is no growth
        assert growth([200.0, 100.0]) == -50

    def test_what_differs_is_told(self):
        numbers = iter(range(10**9))
        calls = {"same": lambda: b"", "other": lambda: str(next(numbers)).encode()}
        made, different, samples = script("soak").soak(calls, 0.3, 2)
        assert samples
        assert made["other"] == different["other"] > 0
        assert set(different) == {"other"}
