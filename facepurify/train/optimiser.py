"""The optimiser that every training run uses: AdamW, one cosine down to zero."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from facepurify.errors import DataError, OptionError
from facepurify.train.distributed import Workers
from facepurify.train.loop import Stateful

__all__ = ["Optimiser", "check_finite", "check_schedule", "one_cycle"]


class Optimiser:
    """AdamW under one cycle of the learning rate: a short rise, then a cosine down to zero.

    Attributes:
        parts: what a checkpoint must hold of it.

    Args:
        parameters: what is trained.
        rate: peak learning rate.
        steps: of the whole run.
        rise: share of the run in which the rate rises.
        decay: of the weights.
        longest: gradients longer than this are cut to it; None for never.
        workers: whose gradients are averaged.

    Raises:
        OptionError: fewer than one step, or a rate that is not above 0.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        steps: int,
        *,
        rise: float = 0.05,
        decay: float = 1e-4,
        longest: float | None = 1.0,
        workers: Workers | None = None,
    ) -> None:
        check_schedule(rate, steps)
        self._workers = workers or Workers()
        self._parameters = list(parameters)
        self._longest = longest
        self._optimizer = torch.optim.AdamW(self._parameters, lr=rate, weight_decay=decay)
        self._schedule = one_cycle(self._optimizer, rate, steps, rise)
        self.parts: dict[str, Stateful] = {
            "optimizer": self._optimizer,
            "schedule": self._schedule,
        }

    def step(self, loss: Tensor) -> None:
        """Goes one step down ``loss``.

        Raises:
            DataError: the loss is no number.
        """
        check_finite(loss)
        self._optimizer.zero_grad()
        loss.backward()
        self._workers.average(self._parameters)
        if self._longest is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._longest)
        self._optimizer.step()
        self._schedule.step()


def check_schedule(rate: float, steps: int) -> None:
    """Refuses what no run can be trained by.

    Raises:
        OptionError: fewer than one step, or a rate that is not above 0.
    """
    if steps < 1 or not 0 < rate < math.inf:
        raise OptionError(f"expected steps of 1 or more and a rate above 0, got {steps} and {rate}")


def one_cycle(
    optimizer: torch.optim.Optimizer,
    rate: float,
    steps: int,
    rise: float,
    *,
    cycle_momentum: bool = True,
) -> torch.optim.lr_scheduler.OneCycleLR:
    """A schedule that rises for a share ``rise`` of ``steps``, then falls by a cosine."""
    if abs(rise * steps - 1) < 1e-6:
        rise *= 1.5  # torch divides by the rise's steps less one
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=rise, cycle_momentum=cycle_momentum
    )


def check_finite(loss: Tensor) -> None:
    """Stops a run before a step by a loss that is no number reaches its weights.

    Raises:
        DataError: the loss is no number.
    """
    if not bool(loss.isfinite()):
        raise DataError(
            f"expected a finite loss, got {loss.detach():g}: begin anew with a smaller rate; "
            "the last checkpoint is from before"
        )
