"""One model of a purifier: what it is, and one run of it on a canonical batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .demand import MAX_DEMAND, demand_of, largest_batch
from .errors import ModelContractError, ModelError, ModelOutputError, OptionError
from .images import Array
from .inspection import antibody
from .memory import Memory
from .onnxfile import read_constants
from .runtime import CPU, Session, providers_of
from .search import Search, SearchOptions, Sensed
from .weights import ModelFile

__all__ = ["ModelInfo", "Passed", "Stage"]

Floats = NDArray[np.float32]

_MODES = {"expected": 0, "fixed": 1, "sampled": 2, "threshold": 2}
_SENSED = ("coefficients", "code")
_OVERSHOOT = 1e-3  # what rounding may put outside [0, 1]
# Images that a model runs on at a time. On a CPU, what more of them make between two layers leaves
# its caches, which cost `immune` a tenth of its time at 32.
_MOST = 64
_MOST_ON_CPU = 16


@dataclass(frozen=True)
class ModelInfo:
    """What a purifier runs.

    Attributes:
        name: Name in the manifest, or the stem of the file; of a chain, all of them joined by
            ``"+"``.
        path: Where the file was read; of a chain, its first model's.
        sha256: Checksum of its bytes, hexadecimal; of a chain, that of the checksums' text.
        masks: The masks it can run with, its default first; empty without an antibody.
        score_threshold: Score from which an image is suspicious (1 % false alarms on held-out
            clean faces); None where none was calibrated. Of a chain, 1.
        outputs: The outputs of the contract that it has.
        K: Length of the antibody; None without one. Of a chain, that of its last antibody.
        stages: The models of a chain, in the order in which they run; empty for one model.
    """

    name: str
    path: Path
    sha256: str
    masks: tuple[str, ...]
    score_threshold: float | None
    outputs: tuple[str, ...]
    K: int | None
    stages: tuple[ModelInfo, ...] = ()


@dataclass(frozen=True)
class Passed:
    """What one model gave for a canonical batch.

    Attributes:
        images: float32 [N, 3, 112, 112], RGB, in [0, 1].
        probability: float32 [N, K], or None.
        mask: float32 [N, K], the antibody used, or None.
        score: float32 [N], in [0, 1], or None.
    """

    images: Floats
    probability: Floats | None
    mask: Floats | None
    score: Floats | None


class Stage:
    """A model and its session.

    Args:
        file: The model, checked.
        providers: As for :class:`facepurify.Purifier`.
        threads: As for :class:`facepurify.Purifier`.
        mask: One of the model's, None for its default.
        search: How to search for an antibody; None for a mask.

    Attributes:
        info: What it is.
        mask: The mask it runs with, None without an antibody or with a search.
        providers: Those it was opened with.
        largest: Most images that it runs on at a time.

    Raises:
        OptionError: The model gives nothing to search with.
        ModelContractError: It gives too little, it would need too much memory, or ONNX Runtime
            refuses it.
    """

    def __init__(
        self,
        file: ModelFile,
        providers: Sequence[str] | None,
        threads: int | None,
        mask: str | None,
        search: SearchOptions | None = None,
    ) -> None:
        masks = file.entry.masks if file.entry else file.contract.masks
        self.info = ModelInfo(
            name=file.name,
            path=file.path,
            sha256=file.sha256,
            masks=masks,
            score_threshold=(file.entry or file.contract).score_threshold,
            outputs=file.contract.outputs,
            K=file.contract.eigenfaces,
        )
        self.mask = (mask or masks[0]) if masks else None
        self._search: Search | None = None
        if search is not None:
            if not file.contract.searchable:
                raise OptionError(
                    f"expected a model whose antibody can be searched, such as ais, for a budget, "
                    f"got {file.name}"
                )
            length = file.contract.eigenfaces or 0
            self._search = Search(read_constants(file.content), length, search)
        # What is shipped was checked when it was made, and its checksum holds.
        self._stranger = None if file.entry else file.content
        self.providers = providers_of(providers)
        most = _MOST_ON_CPU if self.providers[0] == CPU else _MOST
        self.largest = most if self._stranger is None else largest_batch(self._stranger, most)
        self._within = {self.largest}
        self._session: Session | None = Session(file.content, self.providers, threads)

    @property
    def memory(self) -> Memory | None:
        """What its search remembers, if it does."""
        return None if self._search is None else self._search.memory

    def draw(self, rng: np.random.Generator) -> Floats | None:
        """Draw the u of a sampled mask, float32 [1, K], or of a search, [G, M, K].

        The u of the threshold mask is 1/2; other masks draw nothing.
        """
        if self._search is not None:
            return self._search.draw(rng)
        length = self.info.K or 0
        if self.mask == "threshold":
            return np.full((1, length), 0.5, np.float32)
        return rng.random((1, length), np.float32) if self.mask == "sampled" else None

    def run(self, batch: Floats, uniform: Floats | None) -> Passed:
        """Run the model once, and check what it gives.

        Args:
            batch: float32 [N, 3, 112, 112], RGB, in [0, 1].
            uniform: What ``draw`` gave.

        Raises:
            ModelError: It was closed.
            ModelContractError: It would need too much memory for a batch of this size.
            ModelOutputError: It failed, or gave no purified face.
        """
        session = self._session  # another thread may close in between
        if session is None:
            raise ModelError("expected an open purifier, got a closed one; make a new one")
        self._check_demand(len(batch))
        feeds: dict[str, Array] = {"image": batch}
        names = self.info.outputs
        if self._search is not None:
            names += _SENSED
        else:
            if self.mask is not None:
                feeds["mask_mode"] = np.array([_MODES[self.mask]], np.int64)
            if uniform is not None:
                feeds["mask_uniform"] = uniform
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        count = len(batch)
        purified = _checked("purified", outputs["purified"], batch.shape)
        probability, score = outputs.get("probability"), outputs.get("score")
        mask = None
        if probability is not None:
            length = (self.info.K,) if self.info.K else probability.shape[-1:]
            probability = _checked("probability", probability, (count, *length))
            if self._search is not None and uniform is not None:
                sensed = _sensed(batch, outputs, probability)
                mask = self._search.find(sensed, uniform)
                kept = self._search.keep(batch, mask * sensed.coefficients)
                purified = _checked("purified", kept, batch.shape)
            elif self.mask is not None:
                mask = antibody(probability, self.mask, uniform)
        if score is not None:
            score = _checked("score", score, (count,))
        return Passed(purified, probability, mask, score)

    def _check_demand(self, count: int) -> None:
        """Refuse a batch that needs too much memory, before the first of its size.

        A smaller batch than the largest may need more, where a graph computes with N.
        """
        if self._stranger is None or count in self._within:
            return
        if (demand := demand_of(self._stranger, count)) > MAX_DEMAND:
            raise ModelContractError(
                f"expected {self.info.name} to need at most {MAX_DEMAND} bytes of memory for "
                f"{count} images, got {demand}"
            )
        self._within.add(count)

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


def _sensed(batch: Floats, outputs: dict[str, Array], probability: Floats) -> Sensed:
    """What a search starts from; refuse what is not finite or of another length."""
    coefficients, code = (outputs[name] for name in _SENSED)
    if coefficients.shape != probability.shape or code.ndim != 2 or len(code) != len(probability):
        raise ModelOutputError(
            f"expected `coefficients` of shape {probability.shape} and as many codes [N, C], "
            f"got {coefficients.shape} and {code.shape}"
        )
    if not (np.isfinite(coefficients).all() and np.isfinite(code).all()):
        raise ModelOutputError("expected finite `coefficients` and `code`; the model is broken")
    return Sensed(batch, coefficients, probability, code)


def _checked(name: str, values: Array, shape: tuple[int, ...]) -> Floats:
    """Refuse an output that is empty or of another shape or range; clip what rounding overshot."""
    if values.shape != shape:
        raise ModelOutputError(f"expected `{name}` of shape {shape}, got {values.shape}")
    if not values.size:
        raise ModelOutputError(f"expected `{name}` to hold numbers, got shape {shape}")
    low, high = float(values.min()), float(values.max())
    if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # false for NaN too
        raise ModelOutputError(
            f"expected `{name}` finite and in [0, 1], got {low:g} to {high:g}; "
            "the model is broken, or was made for another range"
        )
    return values if low >= 0 and high <= 1 else values.clip(0, 1)
