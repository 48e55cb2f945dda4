"""One run on several GPUs or machines, by torch's own launcher (``torchrun``)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

__all__ = ["Workers", "join_workers"]


@dataclass(frozen=True)
class Workers:
    """This process among those of a run.

    Attributes:
        rank: its number.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    def seed(self, seed: int) -> int:
        """The process's own seed, so that each draws other faces."""
        return seed + 1_000_003 * self.rank

    def folder(self, folder: str | Path) -> Path:
        """The process's own folder, the run's for the first one."""
        return Path(folder) / f"rank{self.rank}" if self.rank else Path(folder)

    def agree(self, net: nn.Module) -> None:
        """Gives every process the first one's weights and statistics."""
        if self.count > 1:
            for tensor in net.state_dict().values():
                distributed.broadcast(tensor, 0)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages the gradients of all processes, in one message."""
        if self.count == 1:
            return
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, part in zip(
            gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient) / self.count)

    def leave(self) -> None:
        """Says goodbye to the others."""
        if self.count > 1:
            distributed.destroy_process_group()


def join_workers(device: str) -> Workers:
    """Joins the processes that ``torchrun`` started; alone without it.

    Args:
        device: of the computation; with ``cuda``, gradients travel by NCCL, else by Gloo.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers()
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Workers(distributed.get_rank(), count)
