"""A training loop that shows progress, draws its curve, and resumes where it was stopped."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from facepurify.bench.cache import digest
from facepurify.errors import DataError, OptionError, OutputExistsError, SeedError
from facepurify.files import atomic_path, make_folder

__all__ = [
    "CHECKPOINT",
    "Loop",
    "Recipe",
    "Stateful",
    "check_free",
    "checkpoint_in",
    "load_run",
    "mean_or_nan",
    "panels_of",
    "weights_of",
]

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_EVERY = 100


class Stateful(Protocol):
    """What a checkpoint can hold: modules, optimisers, schedules."""

    def state_dict(self) -> Any:
        """All there is to save."""

    def load_state_dict(self, state: Any) -> Any:
        """Takes what ``state_dict`` gave."""


class Recipe(Protocol):
    """What a run is trained by: a dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def steps(self) -> int:
        """Of the optimiser."""

    @property
    def batch(self) -> int:
        """Images a step."""


@contextmanager
def checkpoint_in(folder: str | Path) -> Iterator[Any]:
    """Yields a run's checkpoint; ``["parts"]`` has the states by name.

    Raises:
        DataError: there is none, or the block found that it is another's.
    """
    try:
        yield torch.load(Path(folder) / CHECKPOINT, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(
            f"expected a checkpoint of this very run in {folder}, got {error}"
        ) from error


def check_free(folder: str | Path, *, resumes: bool = False) -> None:
    """Sees to it that a new run can begin there.

    Args:
        folder: of the run; it need not be there.
        resumes: whether the command could also go on with a run, which is then advised.

    Raises:
        OutputExistsError: the folder holds a run.
    """
    if (Path(folder) / CHECKPOINT).exists():
        advice = "continue it with --resume, or " if resumes else ""
        raise OutputExistsError(f"{folder} holds a run already: {advice}name another folder")


class Loop:
    """Iterates over steps; what a run leaves lies in one folder.

    ``checkpoint.pt`` (plain tensors, loaded with ``weights_only``), ``log.csv`` (a row a step) and
    ``curve.png``. Every step has a generator of its own made from (seed, step), so a resumed run
    takes the very steps that an uninterrupted one would have taken.

    Args:
        folder: where the run lives.
        parts: what to save and restore, by name.
        recipe: how many steps the run has in all, and whatever else it is trained by.
        seed: of the whole run.
        resume: continue the run in ``folder``, by the recipe, the seed and the sources that it
            was begun with. Without it the folder must hold no run.
        sources: what it is made of besides (faces, guides), a checksum by its name.

    Raises:
        OptionError: fewer than one step or two images a step; or the run has another recipe or
            other sources.
        SeedError: the seed is below 0.
        OutputExistsError: the folder holds a run and ``resume`` was not asked for.
        DataError: the checkpoint belongs to another model or is damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        parts: Mapping[str, Stateful],
        recipe: Recipe,
        *,
        seed: int = 0,
        resume: bool = False,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        if recipe.steps < 1 or recipe.batch < 2:
            raise OptionError(
                "expected at least one step and two images a step, "
                f"got steps {recipe.steps} and batch {recipe.batch}"
            )
        if seed < 0:
            raise SeedError(f"expected a seed >= 0, got {seed}")
        self.folder = make_folder(folder)
        self._parts = parts
        self._steps = recipe.steps
        self._seed = seed
        self._settings = {**asdict(recipe), "seed": seed, **(sources or {})}
        self._step = 0
        self._rows: list[dict[str, float]] = []
        if not resume:
            check_free(folder, resumes=True)
        elif self._checkpoint.exists():
            self._load()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def __iter__(self) -> Iterator[tuple[int, torch.Generator]]:
        """Yields (step, generator) for the steps that are left; saves as it goes."""
        with tqdm(total=self._steps, initial=self._step, desc="training", unit="step") as bar:
            while self._step < self._steps:
                mixed = np.random.SeedSequence([self._seed, self._step]).generate_state(1)[0]
                yield self._step, torch.Generator().manual_seed(int(mixed))
                self._step += 1
                bar.update()
                if self._rows:
                    recent = {k: f"{v:.4f}" for k, v in self._rows[-1].items() if k != "step"}
                    bar.set_postfix(recent)
                if self._step % CHECKPOINT_EVERY == 0 or self._step == self._steps:
                    self._save()

    def log(self, **values: float) -> None:
        """Keeps this step's figures for the log and the curve."""
        self._rows.append({"step": self._step, **values})

    def _save(self) -> None:
        state = {
            "settings": self._settings,
            "step": self._step,
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "rows": self._rows,
        }
        with atomic_path(self._checkpoint) as temporary:
            torch.save(state, temporary)
        log = self.folder / "log.csv"
        with atomic_path(log) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self._rows[0]) if self._rows else [])
            writer.writeheader()
            writer.writerows(self._rows)
        self._draw()

    def _load(self) -> None:
        with checkpoint_in(self.folder) as state:
            for name, part in self._parts.items():
                part.load_state_dict(state["parts"][name])
            self._step, self._rows = state["step"], state["rows"]
            begun: dict[str, Any] = state["settings"]
        other = sorted(
            name
            for name in begun.keys() | self._settings.keys()
            if begun.get(name) != self._settings.get(name)
        )
        if other:
            raise OptionError(
                f"expected the options that the run in {self.folder} was begun with, got another "
                f"{', '.join(other)}: leave them as they were, or name another folder"
            )

    def _draw(self) -> None:
        from matplotlib.figure import Figure

        panels = panels_of(self._rows)
        if not panels:
            return
        figure = Figure(figsize=(8, 2.2 * len(panels)), layout="constrained")
        every = np.array([row["step"] for row in self._rows])
        axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        for axis, (name, values) in zip(axes, panels.items(), strict=True):
            known = ~np.isnan(values)  # steps without such images have no figure
            steps, values = every[known], values[known]
            width = max(1, len(values) // 50)
            axis.plot(steps, values, color="0.85", linewidth=0.8)
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axis.plot(steps[width - 1 :], smooth, color="C0")
            axis.set_ylabel(name)
            axis.grid(alpha=0.3)
        axis.set_xlabel("step")
        with atomic_path(self.folder / "curve.png") as temporary:
            figure.savefig(temporary, format="png", dpi=100)


def panels_of(rows: Sequence[Mapping[str, float]]) -> dict[str, npt.NDArray[np.float64]]:
    """What a curve shows of a log: each figure but those of terms that the run does without."""
    names = [name for name in (rows[0] if rows else ()) if name != "step"]
    columns = {name: np.array([row[name] for row in rows]) for name in names}
    return {name: values for name, values in columns.items() if np.nan_to_num(values).any()}


def load_run(net: nn.Module, folder: str | Path) -> None:
    """Gives ``net`` the weights of a run's checkpoint, and leaves it in evaluation mode.

    Raises:
        DataError: there is none, or it is another network's.
    """
    with checkpoint_in(folder) as state:
        net.load_state_dict(state["parts"]["net"])
    net.eval()


def weights_of(net: nn.Module) -> str:
    """The checksum of a network's weights, in hexadecimal."""
    state = net.state_dict()
    return digest(*state, *(tensor.cpu().numpy() for tensor in state.values()))


def mean_or_nan(values: Tensor) -> float:
    """The mean of what a log is to show; NaN, which a curve leaves out, of nothing at all."""
    return float(values.detach().mean()) if len(values) else float("nan")
