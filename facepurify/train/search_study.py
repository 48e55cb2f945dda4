"""Whether the search pays: its affinities beside the threshold mask and one random mask."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facepurify.bench.recognizers import Recognizer
from facepurify.files import atomic_path, make_folder
from facepurify.purifier import Purifier
from facepurify.search import AFFINITIES, Recognize
from facepurify.train.choose import Floats, Trial

__all__ = ["recognize_with", "study_search"]

Row = dict[str, float]


def recognize_with(recognizer: Recognizer) -> Recognize:
    """What ``Purifier(recognizer=...)`` takes, of a recognizer of the benchmark."""

    def recognize(crops: NDArray[np.uint8]) -> Floats:
        images = crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
        return recognizer.embed_numpy(np.ascontiguousarray(images))

    return recognize


def study_search(
    trials: Sequence[Trial],
    model: str,
    folder: str | Path,
    *,
    budget: tuple[int, int] = (32, 4),
    in_loop: tuple[int, int] | None = (8, 1),
) -> dict[str, dict[str, Row]]:
    """Writes ``search.json``: each way to an antibody, judged on held-out faces.

    Args:
        trials: of one or more recognizers.
        model: as ``Purifier`` takes it; one that can be searched.
        folder: for the file.
        budget: of the affinities that need no recognizer.
        in_loop: budget of the search by the judge itself, which is the dearest; None for none.

    Returns:
        For each recognizer and way: genuine rejected and the success of each attack, as
        fractions, and ``ms``, milliseconds an image.
    """
    results: dict[str, dict[str, Row]] = {}
    for trial in trials:
        ways = {
            "threshold mask": Purifier(model, mask="threshold"),
            "mean mask": Purifier(model, mask="expected"),
            "one random mask": Purifier(model, mask="sampled"),
            **{
                f"search by {affinity}": Purifier(model, budget=budget, affinity=affinity)
                for affinity in AFFINITIES
            },
        }
        if in_loop is not None:
            ways["search by the recognizer"] = Purifier(
                model, budget=in_loop, recognizer=recognize_with(trial.recognizer)
            )
        rows = {"no purifier": trial.judge(lambda images: images)}
        for name, purifier in ways.items():
            timed = _Timed(purifier)
            rows[name] = trial.judge(timed)
            rows[name]["ms"] = 1000 * timed.seconds / timed.images
        results[trial.recognizer.name] = rows
    folder = make_folder(folder)
    with atomic_path(folder / "search.json") as temporary:
        temporary.write_text(
            json.dumps({"budget": budget, "in loop": in_loop, "results": results}, indent=1) + "\n",
            "utf-8",
        )
    return results


class _Timed:
    """A purifier on arrays, with one draw for all, that notes how long it took."""

    def __init__(self, purifier: Purifier) -> None:
        self._purifier = purifier
        self.seconds = 0.0
        self.images = 0

    def __call__(self, images: Floats) -> Floats:
        began = time.perf_counter()
        purified = self._purifier.purify_canonical(images, seed=0).images
        self.seconds += time.perf_counter() - began
        self.images += len(images)
        return purified
