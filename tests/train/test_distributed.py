"""Gradients and weights of two processes, as torch's launcher would start them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from facepurify.train.distributed import Workers, join_workers

PROGRAM = """
import json, sys, torch
from facepurify.train.distributed import join_workers
workers = join_workers("cpu")
net = torch.nn.Linear(2, 1)
torch.nn.init.constant_(net.weight, float(workers.rank + 1))
workers.agree(net)
weight = net.weight.tolist()
net(torch.tensor([[1.0, 10.0]]) * (workers.rank + 1)).sum().backward()
workers.average(net.parameters())
with open(sys.argv[1] + str(workers.rank), "w") as file:
    json.dump([workers.count, weight, net.weight.grad.tolist()], file)
workers.leave()
"""


def test_alone_without_a_launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    workers = join_workers("cpu")
    assert workers == Workers(0, 1)
    assert workers.folder(tmp_path) == tmp_path
    assert workers.seed(3) == 3
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.sum().backward()
    workers.average([parameter])
    assert torch.equal(parameter.grad, torch.ones(2))


def test_processes_differ_in_seed_and_folder(tmp_path: Path) -> None:
    others = [Workers(rank, 3) for rank in range(3)]
    assert len({worker.seed(0) for worker in others}) == 3
    assert len({worker.folder(tmp_path) for worker in others}) == 3


def test_two_processes_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "result")]
        processes.append(subprocess.Popen(command, cwd=Path(__file__).parents[2]))
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    results = [json.loads((tmp_path / f"result{rank}").read_text()) for rank in range(2)]
    assert results[0] == results[1] == [2, [[1.0, 1.0]], [[1.5, 15.0]]]


def test_a_recognizer_is_taught_by_two_processes(
    folders: list[Path], guide_file: Path, tmp_path: Path
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [
        *launcher, "--nproc-per-node", "2", "-m", "--", "facepurify.train", "recognizer",
        "--data", *map(str, folders), "--cache", str(tmp_path / "cache"),
        "--teacher", str(guide_file), "--steps", "2", "--batch", "4",
        "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out.onnx"), "--threads", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cosine to the teacher") == 1
    first, second = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["parts"]["net"]
        for folder in (tmp_path / "run", tmp_path / "run" / "rank1")
    )
    trained = [name for name in first if name.endswith("weight")]
    assert all(torch.equal(first[name], second[name]) for name in trained)
    means = [name for name in first if name.endswith("running_mean")]
    assert not all(torch.equal(first[name], second[name]) for name in means)  # other faces
