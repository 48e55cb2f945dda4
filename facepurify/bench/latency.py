"""What a defence adds to the time of a recognizer, measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
from numpy.typing import NDArray

__all__ = ["relative_latency"]

_Step = Callable[[NDArray[np.float32]], object]


def relative_latency(
    defence: _Step, recognizer: _Step, images: NDArray[np.float32], *, repeats: int = 15
) -> float:
    """Return the median time of ``defence`` on a batch as a multiple of ``recognizer``'s.

    The two take turns, so that whatever else the machine does falls on both alike; the first turn
    warms them up and does not count.

    Args:
        defence: Called on the batch.
        recognizer: Called on the batch.
        images: The batch, [N, 3, 112, 112] in [0, 1].
        repeats: Timed turns, at least 1.
    """
    times: dict[_Step, list[float]] = {defence: [], recognizer: []}
    for _ in range(repeats + 1):
        for step, measured in times.items():
            start = time.perf_counter()
            step(images)
            measured.append(time.perf_counter() - start)
    return median(times[defence][1:]) / median(times[recognizer][1:])
