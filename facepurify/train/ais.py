"""AIS: an antibody for every sample (Ren et al., IJCV 2024, arXiv 2406.18144)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from facepurify.errors import OptionError
from facepurify.train.basis import Basis
from facepurify.train.pin import PinNet, Selector
from facepurify.train.selector import AnalyzerSelector, LightSelector

__all__ = ["ANALYZERS", "AisNet", "MemoryCells", "specificity"]

ANALYZERS: Mapping[str, type[Selector]] = {
    "light": LightSelector,
    "published": AnalyzerSelector,
}
DECAY = 0.999
SHARPNESS = 10.0


class MemoryCells(nn.Module):
    """Codes of what was met, read by likeness (AIS, section 3.3).

    The read-out is softmax(s cos(code, cells)) @ cells. Published is s = 1, with which a softmax
    over 128 cosines is all but even and the read-out all but their mean; here s is learned.

    Args:
        count: M, cells.
        size: C, length of a code.
    """

    cells: Tensor
    filled: Tensor

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.register_buffer("cells", torch.zeros(count, size))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))

    def forward(self, code: Tensor) -> Tensor:
        """Codes [N, C] to what they call to mind, [N, C]."""
        weights = torch.softmax(self.sharpness * self._likeness(code), dim=1)
        return weights @ self.cells

    @torch.no_grad()
    def update(self, code: Tensor) -> None:
        """Moves each cell by a thousandth towards the mean of the codes that are nearest to it.

        The first codes fill the cells, so that none starts where no code ever lies.

        Args:
            code: [N, C], of a training step.
        """
        free = self.cells[int(self.filled) :]
        taken = code[: len(free)]
        if len(taken):
            free[: len(taken)] = taken
            self.filled += len(taken)
            return
        nearest = self._likeness(code).argmax(dim=1)
        belongs = nn.functional.one_hot(nearest, len(self.cells)).to(code)
        count = belongs.sum(dim=0)[:, None]
        mean = belongs.T @ code / count.clamp_min(1)
        self.cells.lerp_(torch.where(count > 0, mean, self.cells), 1 - DECAY)

    def _likeness(self, code: Tensor) -> Tensor:
        return nn.functional.normalize(code) @ nn.functional.normalize(self.cells).T


class AisNet(PinNet):
    """Antigen analyzer, memory and antibody generator over the immune space.

    As PIN, but the code is joined by what it calls to mind before logits are made of it, and
    batch norm spreads these over the samples, so that antibodies differ between them. Each
    eigenface's own coefficient counts too, as in ``PinNet``; the paper's generator sees the code
    only.

    Args:
        basis: of the immune space.
        selector: the analyzer, one of ``ANALYZERS``.
        memory: cells (published: 128); 0 for none.

    Raises:
        OptionError: fewer cells than none, or no such selector.
    """

    selectors: ClassVar[Mapping[str, type[Selector]]] = ANALYZERS

    def __init__(self, basis: Basis, selector: str = "light", memory: int = 128) -> None:
        if memory < 0:
            raise OptionError(f"expected 0 memory cells or more, got {memory}")
        super().__init__(basis, selector)
        self.memory = MemoryCells(memory, self.selector.code_size) if memory else None
        self.norm = nn.BatchNorm1d(self.space.count)
        # Batch norm takes the bias off again, so what starts the mask open has to come after.
        nn.init.constant_(self.norm.bias, 2.0)

    @override
    def analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.selector.encode(x)
        recalled = code if self.memory is None else code + self.memory(code)
        return code, self.norm(self.selector.logits(recalled))

    def remember(self, code: Tensor) -> None:
        """Lets the memory learn from a training step's codes [N, C]."""
        if self.memory is not None:
            self.memory.update(code.detach())


def specificity(antibodies: Tensor) -> Tensor:
    """Mean Hamming distance between the antibodies of different samples, as a share of K.

    Args:
        antibodies: 0 or 1, [N, K] with N > 1.

    >>> import torch
    >>> float(specificity(torch.tensor([[1.0, 0.0], [1.0, 1.0]])))
    0.5
    """
    count = len(antibodies)
    share = antibodies.mean(dim=0)
    return (2 * share * (1 - share)).mean() * count / (count - 1)
