"""What a defence adds to the time of a recognizer, measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["median_times", "relative_latency"]

_Step = Callable[[NDArray[np.float32]], object]
Images = TypeVar("Images")


def relative_latency(
    defence: _Step, recognizer: _Step, images: NDArray[np.float32], *, repeats: int = 15
) -> float:
    """Return the median time of ``defence`` on a batch as a multiple of ``recognizer``'s.

    Args:
        defence: Called on the batch.
        recognizer: Called on the batch.
        images: The batch, [N, 3, 112, 112] in [0, 1].
        repeats: Timed turns, at least 1.
    """
    times = median_times({"defence": defence, "recognizer": recognizer}, images, repeats)
    return times["defence"] / times["recognizer"]


def median_times(
    steps: Mapping[str, Callable[[Images], object]], images: Images, repeats: int
) -> dict[str, float]:
    """Return the median seconds of each step on a batch; the steps take turns.

    Whatever else the machine does falls on all alike. The first turn warms them up and does not
    count.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(images)
            times[name].append(time.perf_counter() - start)
    return {name: median(measured[1:]) for name, measured in times.items()}
