"""Worker processes, and what becomes of the items of one that dies."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facepurify import ModelNotFoundError, WorkerError
from facepurify.cli import pool
from facepurify.cli.pool import cores, map_processes


def make_square(folder: Path) -> Callable[[int], tuple[int, int]]:
    """Square numbers; die of 13 always, of 7 and 8 the first time."""

    def square(number: int) -> tuple[int, int]:
        tried = folder / str(number)
        first = not tried.exists()
        tried.touch()
        if number == 13 or (number in (7, 8) and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 5 and first:
            raise OSError(28, "No space left on device")
        return number * number, os.getpid()

    return square


def make_none(error: Exception | None) -> Callable[[int], int]:
    if error is None:
        os._exit(3)
    raise error


def test_cores():
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_a_worker_that_dies_is_replaced(tmp_path):
    make = functools.partial(make_square, tmp_path)
    answers = dict(map_processes(make, range(40), 2))
    assert sorted(answers) == list(range(40))
    death = answers.pop(13)
    assert isinstance(death, WorkerError)
    assert str(death) == "the process that worked on it died of SIGKILL, twice"
    assert {number: answer[0] for number, answer in answers.items()} == {
        number: number * number for number in range(40) if number != 13
    }
    assert os.getpid() not in {answer[1] for answer in answers.values()}


def test_items_are_taken_as_workers_become_free(tmp_path):
    taken = []

    def items() -> Iterator[int]:
        for number in range(20, 40):
            taken.append(number)
            yield number

    answers = map_processes(functools.partial(make_square, tmp_path), items(), 1)
    next(answers)
    assert len(taken) < 5
    answers.close()  # the worker ends, although there are items left
    assert len(taken) < 5


def test_nothing_to_do(tmp_path):
    assert list(map_processes(functools.partial(make_square, tmp_path), [], 2)) == []


def test_what_making_the_function_raises():
    make = functools.partial(make_none, ModelNotFoundError("expected a model"))
    with pytest.raises(ModelNotFoundError, match="expected a model"):
        list(map_processes(make, [1, 2, 3], 2))


def test_a_worker_that_does_not_start():
    make = functools.partial(make_none, None)
    with pytest.raises(WorkerError, match="to start, it ended with status 3"):
        list(map_processes(make, [1], 1))


def test_a_worker_answers_until_its_pipe_is_closed(monkeypatch):
    ignored = []
    monkeypatch.setattr(signal, "signal", lambda *given: ignored.append(given))
    ours, theirs = multiprocessing.Pipe()
    for number in (2, 3):
        ours.send(number)
    received = []
    answers = iter([ours.recv, ours.recv])

    def square(number: int) -> int:
        received.append(next(answers)())  # what it said before it got this number
        if number == 3:
            ours.close()
        return number * number

    pool._serve(theirs, lambda: square)
    assert received == [None, 4]
    assert ignored == [(signal.SIGINT, signal.SIG_IGN)]


def test_a_worker_that_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_PATIENCE", 0.01)
    worker = pool._Worker(functools.partial(make_square, tmp_path))
    assert worker.bury() == "died of SIGKILL"  # its pipe is open, so it waits for work
    worker.connection.close()
