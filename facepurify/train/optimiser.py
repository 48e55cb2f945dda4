"""The optimiser that every training run uses: AdamW, one cosine down to zero."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from facepurify.train.distributed import Workers
from facepurify.train.loop import Stateful

__all__ = ["Optimiser"]


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
        self._workers = workers or Workers()
        self._parameters = list(parameters)
        self._longest = longest
        self._optimizer = torch.optim.AdamW(self._parameters, lr=rate, weight_decay=decay)
        if abs(rise * steps - 1) < 1e-6:
            rise *= 1.5  # torch divides by the rise's steps less one
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, rate, total_steps=steps, pct_start=rise
        )
        self.parts: dict[str, Stateful] = {
            "optimizer": self._optimizer,
            "schedule": self._schedule,
        }

    def step(self, loss: Tensor) -> None:
        """Goes one step down ``loss``."""
        self._optimizer.zero_grad()
        loss.backward()
        self._workers.average(self._parameters)
        if self._longest is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._longest)
        self._optimizer.step()
        self._schedule.step()
