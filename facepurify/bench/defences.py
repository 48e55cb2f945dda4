"""What may stand before a recognizer: purifiers, and the baselines to compare them with.

A defence purifies arrays (what results are judged by) and tensors with a gradient (what an
adaptive attacker goes through). Its gradient is exact where it has one; else BPDA (Athalye et
al., arXiv 1802.00420): the true output forwards, a smooth stand-in backwards.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable
from typing import Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from typing_extensions import override

from facepurify.bench.baselines import ARRAY_FAMILIES, TENSOR_FAMILIES, Family
from facepurify.bench.conversion import to_torch
from facepurify.errors import ModelContractError, ModelNotFoundError, OptionError
from facepurify.purifier import Purifier
from facepurify.weights import read_model, split_chain

__all__ = ["BASELINES", "Defence", "PurifierDefence", "get_defence"]

BASELINES = (
    "none",
    "grey",
    "jpeg75",
    "jpeg15",
    "bits4",
    "gaussian1",
    "median3",
    "resize_pad100",
    "noise8",
    "tv0.1",
)
MASKS = ("expected", "fixed", "sampled", "threshold")
PARITY = 1e-3
TINY = 1e-6
Floats = npt.NDArray[np.float32]
Kind = TypeVar("Kind")


class Defence(abc.ABC):
    """A map from faces to faces.

    Attributes:
        name: what ``get_defence`` makes it from.
        random: whether a draw is involved; ``seed`` chooses it. An attacker then averages over
            draws (EOT).
        gradient: "exact", or "BPDA" with what stands in.
        score_threshold: suspicion from which an image is suspicious; None where there is none.
    """

    name: str
    random: bool = False
    gradient: str = "exact"
    score_threshold: float | None = None

    @abc.abstractmethod
    def key(self) -> str:
        """Names, by content, what it computes; to cache results under."""

    @abc.abstractmethod
    def purify(self, images: Floats, seed: int = 0) -> Floats:
        """Purifies RGB images, float32 [N, 3, 112, 112] in [0, 1]."""

    @abc.abstractmethod
    def differentiable(self, x: Tensor, seed: int = 0) -> Tensor:
        """The same on a tensor, with a gradient."""

    def purify_and_score(self, images: Floats, seed: int = 0) -> tuple[Floats, Floats | None]:
        """Purified images, and suspicion [N] in [0, 1], higher for an attack; None without one."""
        return self.purify(images, seed), None

    def alarm(self, x: Tensor) -> Tensor:
        """How far the suspicion's logit lies above that of its threshold, [N]; with a gradient.

        Raises:
            OptionError: there is no score with a threshold, or torch cannot compute it.
        """
        raise OptionError(
            f"expected a purifier with a calibrated score that torch computes, got {self.name}"
        )


class _Baseline(Defence, Generic[Kind]):
    def __init__(self, name: str, family: Family[Kind], strength: float) -> None:
        self.name = name
        self.random = family.random
        self._family = family
        self._strength = strength

    @override
    def key(self) -> str:
        return f"baseline {self.name}"

    def _apply(self, images: Kind, seed: int) -> Kind:
        return self._family.apply(images, self._strength, seed)


class _TensorBaseline(_Baseline[Tensor]):
    """One that torch computes, so that its gradient is exact."""

    @override
    def purify(self, images: Floats, seed: int = 0) -> Floats:
        with torch.no_grad():
            return self._apply(torch.from_numpy(images), seed).numpy()

    @override
    def differentiable(self, x: Tensor, seed: int = 0) -> Tensor:
        return self._apply(x, seed)


class _ArrayBaseline(_Baseline[Floats]):
    """One that a library computes on arrays; the identity stands in for its gradient."""

    gradient = "BPDA (identity)"

    @override
    def purify(self, images: Floats, seed: int = 0) -> Floats:
        return self._apply(images, seed)

    @override
    def differentiable(self, x: Tensor, seed: int = 0) -> Tensor:
        return _straight_through(x, self.purify(_array(x), seed))


class PurifierDefence(Defence):
    """A facepurify purifier, or a chain of them ("uddn+pin").

    Judged as users run it, by ``Purifier.purify_canonical``; differentiated by its ONNX graph
    in torch. Of an antibody's hard masks (fixed, sampled, threshold) and of one that is searched
    for, the expected mask stands in: the projection is linear in the mask, so for the sampled one
    this is the exact expectation.

    Args:
        model: as ``Purifier`` takes it in one string: a name from the manifest, a path to an ONNX
            file of the contract, or several joined by "+".
        mask: "expected", "fixed", "sampled" or "threshold"; None for the model's default.
        budget: clones and generations of a search in place of a mask; None for no search. Its
            seed is drawn anew for each, so that an attacker has to average over it.

    It runs on as many threads as torch has when it is made.

    Raises:
        ModelError: as ``Purifier``; or torch and ONNX Runtime disagree by more than 1e-3.
        OptionError: as ``Purifier``.
    """

    def __init__(
        self, model: str, mask: str | None = None, budget: tuple[int, int] | None = None
    ) -> None:
        # As many threads as torch has: ONNX Runtime's own choice would be a core for each.
        threads = torch.get_num_threads()
        self._purifier = Purifier(model, mask=mask, budget=budget, threads=threads)
        info = self._purifier.info
        way = mask if budget is None else f"{budget[0]}x{budget[1]}"
        active = way or next(iter(info.masks), None)
        self._hard = active is not None and active != "expected"
        self.name = info.name if way is None else f"{info.name}:{way}"
        self.random = active == "sampled" or budget is not None
        self._key = f"purifier {info.sha256} {active}"
        self.score_threshold = info.score_threshold
        self._net: nn.Sequential | None = None
        try:
            self._net = nn.Sequential(
                *(
                    _TorchPurifier(read_model(each).content, stage.score_threshold)
                    for each, stage in zip(split_chain(model), info.stages or (info,), strict=True)
                )
            )
        except NotImplementedError as error:
            self.gradient = f"BPDA (identity: {error})"
        else:
            if self._hard:
                self.gradient = "BPDA (expected mask)"
            mean = Purifier(model, mask="expected" if info.masks else None, threads=threads)
            self._check_parity(self._net, mean)

    @override
    def key(self) -> str:
        return self._key

    @override
    def purify(self, images: Floats, seed: int = 0) -> Floats:
        return self.purify_and_score(images, seed)[0]

    @override
    def differentiable(self, x: Tensor, seed: int = 0) -> Tensor:
        stand_in: Tensor = x if self._net is None else self._net.to(x.device)(x)
        if self._net is None or self._hard:
            return _straight_through(stand_in, self.purify(_array(x), seed))
        return stand_in

    @override
    def purify_and_score(self, images: Floats, seed: int = 0) -> tuple[Floats, Floats | None]:
        purified = self._purifier.purify_canonical(images, seed=seed)
        return purified.images, purified.score

    @override
    def alarm(self, x: Tensor) -> Tensor:
        if self._net is None or self.score_threshold is None:
            return super().alarm(x)
        alarms = []
        for stage in cast("Iterable[_TorchPurifier]", self._net.to(x.device)):
            x, alarm = stage.seen(x)
            alarms += [] if alarm is None else [alarm]
        return torch.stack(alarms).amax(0)  # a chain is suspicious where one of its models is

    def _check_parity(self, net: nn.Module, purifier: Purifier) -> None:
        images = np.random.default_rng(0).random((2, 3, 112, 112), dtype=np.float32)
        with torch.no_grad():
            ours = net(torch.from_numpy(images)).numpy()
        difference = float(np.abs(ours - purifier.purify_canonical(images).images).max())
        if not difference <= PARITY:
            raise ModelContractError(
                f"expected torch and ONNX Runtime to agree within {PARITY} on {self.name}, "
                f"got {difference:.2g}: the conversion of an operator is wrong"
            )


class _TorchPurifier(nn.Module):
    """An ONNX purifier's face and its suspicion, computed by torch with the expected mask."""

    def __init__(self, content: bytes, threshold: float | None) -> None:
        super().__init__()
        model = onnx.load_model_from_string(content)
        required = [value for value in model.graph.input if value.name == "image"]
        del model.graph.input[:]
        model.graph.input.extend(required)
        for tensor in model.graph.initializer:
            if tensor.name == "mask_mode":
                tensor.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "mask_mode"))
        self._names = [output.name for output in model.graph.output]
        self._threshold = threshold
        self._logits = False
        for node in model.graph.node:
            if node.op_type == "Sigmoid" and "score" in node.output:
                # Where the sigmoid is sure, it has no gradient left to hide by; its logit has.
                node.op_type = "Identity"
                self._logits = True
        self._net = to_torch(model)

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The purified face, and the alarm [N] where the score has a threshold."""
        outputs = self._net(x)
        if not isinstance(outputs, tuple | list):
            return outputs, None
        named = dict(zip(self._names, outputs, strict=True))
        if self._threshold is None:
            return named["purified"], None
        score = named["score"]
        logit = score if self._logits else torch.logit(score, eps=TINY)
        return named["purified"], logit - torch.logit(torch.tensor(self._threshold), eps=TINY)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.seen(x)[0]


def _straight_through(stand_in: Tensor, output: Floats) -> Tensor:
    return stand_in + (torch.from_numpy(output).to(stand_in) - stand_in).detach()


def _array(x: Tensor) -> Floats:
    array: Floats = x.detach().cpu().contiguous().numpy()
    return array


def get_defence(name: str) -> Defence:
    """Makes a defence by name.

    Args:
        name: a baseline and its strength ("jpeg75", "gaussian1.5"; without a number, its
            default), or a purifier's name or file, with ":" and a mask or the budget of a search
            after it if wanted ("pin:sampled", "ais:32x4"), or a chain of these joined by "+"
            ("uddn+pin").

    Raises:
        OptionError: a strength out of range, or no baseline and no purifier of that name.
        ModelError: the purifier's file is not one that can run.

    >>> get_defence("jpeg").name
    'jpeg75'
    >>> get_defence("resize_pad").random
    True
    """
    match = re.fullmatch(r"([a-z_]+|art:[a-z]+?)(\d+(?:\.\d+)?)?", name)
    if match and (match[1] in TENSOR_FAMILIES or match[1] in ARRAY_FAMILIES):
        return _baseline(match[1], match[2])
    model, _, way = name.rpartition(":")
    try:
        if budget := re.fullmatch(r"(\d+)x(\d+)", way):
            return PurifierDefence(model, budget=(int(budget[1]), int(budget[2])))
        return PurifierDefence(model, way) if way in MASKS else PurifierDefence(name)
    except ModelNotFoundError as error:
        known = ", ".join([*TENSOR_FAMILIES, *ARRAY_FAMILIES])
        raise OptionError(
            f"unknown defence {name!r}: expected one of {known}, or a purifier: {error}"
        ) from error


def _baseline(name: str, number: str | None) -> Defence:
    family = TENSOR_FAMILIES.get(name) or ARRAY_FAMILIES[name]
    if family.default is None:
        if number is not None:
            raise OptionError(f"expected {name} without a number, got {name}{number}")
        strength, full_name = 0.0, name
    else:
        strength = family.default if number is None else float(number)
        if strength not in family.strengths:
            raise OptionError(f"expected {name} with a number in {family.strengths}, got {number}")
        full_name = f"{name}{strength:g}"
    if name in TENSOR_FAMILIES:
        return _TensorBaseline(full_name, TENSOR_FAMILIES[name], strength)
    return _ArrayBaseline(full_name, ARRAY_FAMILIES[name], strength)
