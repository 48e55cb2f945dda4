"""One call for each of many items, spread over processes that may die."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from ..errors import FacePurifyError, WorkerError

__all__ = ["cores", "map_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # items that a worker has at a time, so that it never waits for the next one
_ATTEMPTS = 2  # the first death may have been another item's doing, or nobody's
_PATIENCE = 60  # seconds that a worker has to finish its item when the caller stops


def cores() -> int:
    """Count the processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def map_processes(
    make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result | WorkerError]]:
    """Call a function for every item in one of several processes.

    Each worker is a fresh process (spawned, never forked) that makes the function once. One
    that dies, of a crash or of the kernel's hunger for memory, is replaced, and what it had in
    hand is tried once more. The workers end by themselves when this process is killed.

    Args:
        make: Makes the function; pickles, as the items and the results do.
        items: Taken as workers become free, so that they need not all be in memory.
        workers: Number of processes.

    Yields:
        Each item with its result, or with the error that its process died twice, in the order
        in which they are done.

    Raises:
        FacePurifyError: What ``make`` raises of our own errors.
        WorkerError: A process died before it was ready to work.
    """
    remaining = iter(items)
    again: deque[tuple[Item, int]] = deque()
    pool: list[_Worker[Item, Result]] = []

    def feed(worker: _Worker[Item, Result]) -> None:
        while len(worker.given) < _AHEAD:
            if again:
                worker.give(*again.popleft())
                continue
            try:
                worker.give(next(remaining), 1)
            except StopIteration:
                return

    try:
        for _ in range(workers):
            pool.append(_Worker(make))
            feed(pool[-1])
        while busy := [worker for worker in pool if worker.given]:
            ready = wait([worker.connection for worker in busy])
            for index, worker in enumerate(pool):
                if worker.connection not in ready:
                    continue
                try:
                    answer = worker.answer()
                except (EOFError, OSError):
                    reason = worker.bury()
                    (item, attempt), *untouched = worker.given
                    again.extend(untouched)
                    if attempt < _ATTEMPTS:
                        again.append((item, attempt + 1))
                    else:
                        yield item, WorkerError(f"the process that worked on it {reason}, twice")
                    worker = pool[index] = _Worker(make)
                else:
                    if answer is not None:
                        yield answer
                feed(worker)
    finally:
        for worker in pool:
            worker.connection.close()
        for worker in pool:
            worker.bury()


class _Worker(Generic[Item, Result]):
    """One process, and the items that it was given, oldest first."""

    def __init__(self, make: Callable[[], Callable[[Item], Result]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()
        self._ready = False
        self.given: deque[tuple[Item, int]] = deque()

    def give(self, item: Item, attempt: int) -> None:
        self.given.append((item, attempt))
        with contextlib.suppress(OSError):  # it is dead, which its answer will tell
            self.connection.send(item)

    def answer(self) -> tuple[Item, Result] | None:
        """Receive one result, or None for the word that it is ready to work."""
        try:
            answer: Any = self.connection.recv()
        except (EOFError, OSError) as error:
            if self._ready:
                raise
            raise WorkerError(f"expected a worker process to start, it {self.bury()}") from error
        if self._ready:
            return self.given.popleft()[0], answer
        if isinstance(answer, FacePurifyError):
            raise answer
        self._ready = True
        return None

    def bury(self) -> str:
        """Wait for its end, and say how it came."""
        self._process.join(_PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _serve(connection: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """Answer items until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the caller, who closes the pipe
    try:
        function = make()
    except FacePurifyError as error:
        connection.send(error)
        return
    answer = None
    while True:
        try:
            connection.send(answer)
            item = connection.recv()
        except (EOFError, OSError):
            return
        answer = function(item)
