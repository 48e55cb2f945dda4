"""Teaching a recognizer stage by stage: each stage imitates the teacher's.

First from the teacher's own input (block-wise distillation, Li et al., CVPR 2020, arXiv
1911.13053): every pixel of every map is a target, and no stage waits until those before it are
good. Then from what the student's stages give, so that they make up for each other's errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError

__all__ = ["StageTeacher", "run_stages", "unexplained"]

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
        last = _last_of_each_shape(recognizer)
        if missing := [shape for shape in shapes if shape not in last]:
            raise OptionError(
                f"expected a teacher with a map of {' x '.join(map(str, missing[0]))} to teach a "
                f"stage, {recognizer.name} has none: leave stagewise at 0"
            )
        self._ends = [last[shape] for shape in shapes]

    def show(self, x: Tensor) -> list[Tensor]:
        """The map at the end of each stage, then the unit embeddings [N, d].

        Args:
            x: RGB images [N, 3, 112, 112] in [0, 1].
        """
        seen: dict[int, Tensor] = {}
        with _hooked(self._ends, seen.__setitem__), torch.no_grad():
            embedding = self._recognizer.embed(x)
        return [seen[i] for i in range(len(self._ends))] + [embedding]


def run_stages(
    stages: Sequence[nn.Module], blob: Tensor, shown: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """What each stage gives.

    Args:
        stages: the student's, one after another.
        blob: what the first sees.
        shown: by ``StageTeacher.show``: each stage is given what the teacher's stage before it
            gave. None for what the student's own gave.
    """
    outputs: list[Tensor] = []
    for number, stage in enumerate(stages):
        before = outputs if shown is None else shown
        outputs.append(stage(before[number - 1] if number else blob))
    return outputs


def unexplained(got: Tensor, wanted: Tensor) -> Tensor:
    """Share of a map's variance that an imitation leaves, the mean of its channels; a scalar.

    Args:
        got: [N, C, H, W].
        wanted: the same, by the teacher.
    """
    variance = wanted.var(dim=(0, 2, 3), keepdim=True).clamp_min(SMALLEST)
    return ((got - wanted).square() / variance).mean()


def _last_of_each_shape(recognizer: Recognizer) -> dict[tuple[int, ...], nn.Module]:
    children = list(recognizer.net.children())
    last: dict[tuple[int, ...], nn.Module] = {}

    def see(number: int, output: object) -> None:
        if isinstance(output, Tensor):
            last[tuple(output.shape[1:])] = children[number]

    with _hooked(children, see), torch.no_grad():
        recognizer.embed(torch.zeros(1, 3, 112, 112))
    return last


@contextmanager
def _hooked(modules: Sequence[nn.Module], see: Callable[[int, Any], None]) -> Iterator[None]:
    """Has what each module gives seen, with its number; only here, or its maps would live on."""
    with ExitStack() as hooks:
        for i, module in enumerate(modules):
            hooks.enter_context(
                module.register_forward_hook(lambda _, __, output, i=i: see(i, output))
            )
        yield
