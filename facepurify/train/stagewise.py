"""Teaching a recognizer stage by stage: each stage imitates the teacher's, from its true input.

Block-wise distillation (Li et al., CVPR 2020, arXiv 1911.13053). Every pixel of every map is a
target, and no stage waits until those before it are good: far faster than the embedding alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError

__all__ = ["StageTeacher", "stage_losses"]

SMALLEST = 1e-6


class StageTeacher:
    """A recognizer whose maps between the stages are within reach.

    Args:
        recognizer: as torch has it.
        shapes: [C, H, W] of the map at the end of each stage; its last map of that shape is meant.

    Raises:
        OptionError: it has no map of such a shape.
    """

    def __init__(self, recognizer: Recognizer, shapes: Sequence[tuple[int, ...]]) -> None:
        self._recognizer = recognizer
        self._ends = [_last_of_shape(recognizer, shape) for shape in shapes]

    def show(self, x: Tensor) -> list[Tensor]:
        """The map at the end of each stage, then the unit embeddings [N, d].

        Args:
            x: RGB images [N, 3, 112, 112] in [0, 1].
        """
        seen: dict[int, Tensor] = {}
        # A hook that stayed would keep the last batch's maps alive.
        hooks = [
            end.register_forward_hook(lambda _, __, output, i=i: seen.__setitem__(i, output))
            for i, end in enumerate(self._ends)
        ]
        try:
            with torch.no_grad():
                embedding = self._recognizer.embed(x)
        finally:
            for hook in hooks:
                hook.remove()
        return [seen[i] for i in range(len(self._ends))] + [embedding]


def stage_losses(
    stages: Sequence[nn.Module], blob: Tensor, shown: Sequence[Tensor]
) -> list[Tensor]:
    """What each stage gets wrong when it is given what the teacher's stage was given.

    Args:
        stages: the student's; the last gives embeddings, the others maps.
        blob: what the first stage sees.
        shown: by ``StageTeacher.show``, one for each stage.

    Returns:
        For each stage a scalar: of a map the unexplained share of its variance, channel by channel;
        of embeddings 1 - cos.
    """
    losses = []
    for stage, given, wanted in zip(stages, [blob, *shown[:-1]], shown, strict=True):
        got = stage(given)
        if wanted.dim() == 2:
            losses.append(1 - (nn.functional.normalize(got) * wanted).sum(dim=1).mean())
        else:
            variance = wanted.var(dim=(0, 2, 3), keepdim=True).clamp_min(SMALLEST)
            losses.append(((got - wanted).square() / variance).mean())
    return losses


def _last_of_shape(recognizer: Recognizer, shape: tuple[int, ...]) -> nn.Module:
    found: list[nn.Module] = []

    def see(module: nn.Module, _: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and tuple(output.shape[1:]) == shape:
            found.append(module)

    hooks = [module.register_forward_hook(see) for module in recognizer.net.children()]
    try:
        with torch.no_grad():
            recognizer.embed(torch.zeros(1, 3, 112, 112))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise OptionError(
            f"expected a teacher with a map of {' x '.join(map(str, shape))} to teach a stage, "
            f"{recognizer.name} has none: leave stagewise at 0"
        )
    return found[-1]
