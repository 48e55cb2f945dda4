"""What may stand before a recognizer: purifiers, and the baselines to compare them with.

A defence purifies arrays (what results are judged by) and tensors with a gradient (what an
adaptive attacker goes through). Its gradient is exact where it has one; else BPDA (Athalye et
al., arXiv 1802.00420): the true output forwards, a smooth stand-in backwards.
"""

from __future__ import annotations

import abc
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnx2torch
import onnxruntime
import torch
from onnx import helper, numpy_helper
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from facepurify.bench.attacks.dim import resize_and_pad
from facepurify.bench.attacks.tim import gaussian_kernel
from facepurify.errors import MissingExtraError, ModelContractError, ModelNotFoundError, OptionError
from facepurify.purifier import Purifier
from facepurify.weights import read_model

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
    "tv0.1",
)
MASKS = ("expected", "fixed", "sampled")
PARITY = 1e-3
REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")
LUMA = (0.299, 0.587, 0.114)
Floats = npt.NDArray[np.float32]
Kind = TypeVar("Kind")


class Defence(abc.ABC):
    """A map from faces to faces.

    Attributes:
        name: what ``get_defence`` makes it from.
        random: whether a draw is involved; ``seed`` chooses it. An attacker then averages over
            draws (EOT).
        gradient: "exact", or "BPDA" with what stands in.
    """

    name: str
    random: bool = False
    gradient: str = "exact"

    @abc.abstractmethod
    def key(self) -> str:
        """Names, by content, what it computes; to cache results under."""

    @abc.abstractmethod
    def purify(self, images: Floats, seed: int = 0) -> Floats:
        """Purifies RGB images, float32 [N, 3, 112, 112] in [0, 1]."""

    @abc.abstractmethod
    def differentiable(self, x: Tensor, seed: int = 0) -> Tensor:
        """The same on a tensor, with a gradient."""

    def score(self, images: Floats) -> Floats | None:
        """Suspicion [N] in [0, 1], higher for an attack; None from a defence without one."""
        return None


@dataclass(frozen=True)
class _Family(Generic[Kind]):
    """A well-known transformation of images by a strength and a seed."""

    apply: Callable[[Kind, float, int], Kind]
    default: float | None = None
    lowest: float = 0
    highest: float = 0
    random: bool = False


class _Baseline(Defence, Generic[Kind]):
    def __init__(self, name: str, family: _Family[Kind], strength: float) -> None:
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
    """A facepurify purifier.

    Judged as users run it, by ``Purifier.purify_canonical``; differentiated by its ONNX graph
    in torch. Of an antibody's hard masks (fixed, sampled), the expected mask stands in: the
    projection is linear in the mask, so for the sampled one this is the exact expectation.

    Args:
        model: a name from the manifest, or a path to an ONNX file of the contract.
        mask: "expected", "fixed" or "sampled"; None for the model's default.

    Raises:
        ModelError: as ``Purifier``; or torch and ONNX Runtime disagree by more than 1e-3.
        OptionError: as ``Purifier``.
    """

    def __init__(self, model: str, mask: str | None = None) -> None:
        self._purifier = Purifier(model, mask=mask)
        info = self._purifier.info
        active = mask or next(iter(info.masks), None)
        self._hard = active in ("fixed", "sampled")
        self.name = info.name if mask is None else f"{info.name}:{mask}"
        self.random = active == "sampled"
        self._key = f"purifier {info.sha256} {active}"
        self._net: nn.Module | None = None
        try:
            self._net = _TorchPurifier(read_model(model).content)
        except NotImplementedError as error:
            self.gradient = f"BPDA (identity: {error})"
        else:
            if self._hard:
                self.gradient = "BPDA (expected mask)"
            self._check_parity(self._net, Purifier(model, mask="expected" if info.masks else None))

    @override
    def key(self) -> str:
        return self._key

    @override
    def purify(self, images: Floats, seed: int = 0) -> Floats:
        return self._purifier.purify_canonical(images, seed=seed).images

    @override
    def differentiable(self, x: Tensor, seed: int = 0) -> Tensor:
        stand_in: Tensor = x if self._net is None else self._net.to(x.device)(x)
        if self._net is None or self._hard:
            return _straight_through(stand_in, self.purify(_array(x), seed))
        return stand_in

    @override
    def score(self, images: Floats) -> Floats | None:
        return self._purifier.purify_canonical(images).score

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
    """An ONNX purifier's face, computed by torch with the expected mask."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        model = _folded(onnx.load_model_from_string(content))
        self._index = [output.name for output in model.graph.output].index("purified")
        self._net = onnx2torch.convert(model).eval().requires_grad_(False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        outputs = self._net(x)
        purified: Tensor = outputs[self._index] if isinstance(outputs, tuple | list) else outputs
        return purified


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the mask fixed to the expected one, and constants folded by ONNX Runtime.

    So what is computed from weights alone (casts and scales of compressed ones, identities)
    becomes plain weights: onnx2torch demands that in places, and it is faster.
    """
    required = [value for value in model.graph.input if not value.name.startswith("mask_")]
    del model.graph.input[:]
    model.graph.input.extend(required)
    for tensor in model.graph.initializer:
        if tensor.name == "mask_mode":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "mask_mode"))
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        folded = onnx.load(options.optimized_model_filepath)
    return _as_opset_17(folded)


def _as_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrites the reductions of newer opsets, the rest of which onnx2torch reads as 17's.

    Since 18 a reduction's axes are an input. What else is newer is mostly types; where it is
    more, the conversion fails or the parity check does.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in REDUCTIONS and len(node.input) == 2:
            axes = numpy_helper.to_array(constants[node.input.pop()])
            node.attribute.append(helper.make_attribute("axes", axes.tolist()))
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = min(opset.version, 17)
    return model


def _straight_through(stand_in: Tensor, output: Floats) -> Tensor:
    return stand_in + (torch.from_numpy(output).to(stand_in) - stand_in).detach()


def _array(x: Tensor) -> Floats:
    array: Floats = x.detach().cpu().contiguous().numpy()
    return array


def _grey(x: Tensor, strength: float, seed: int) -> Tensor:
    luma = torch.tensor(LUMA).to(x).reshape(1, 3, 1, 1)
    return (x * luma).sum(1, keepdim=True).expand_as(x)


def _gaussian(x: Tensor, sigma: float, seed: int) -> Tensor:
    reach = int(np.ceil(3 * sigma))
    kernel = gaussian_kernel(2 * reach + 1, sigma).to(x).expand(3, 1, -1, -1)
    padded = functional.pad(x, (reach,) * 4, mode="reflect")
    return functional.conv2d(padded, kernel, groups=3)


def _median(x: Tensor, side: float, seed: int) -> Tensor:
    reach = int(side) // 2
    padded = functional.pad(x, (reach,) * 4, mode="reflect")
    windows = padded.unfold(2, 2 * reach + 1, 1).unfold(3, 2 * reach + 1, 1)
    return windows.flatten(-2).median(dim=-1).values


def _resize_and_pad(x: Tensor, smallest: float, seed: int) -> Tensor:
    """Xie et al., arXiv 1711.01991, on a recognizer that takes one size; a draw per image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([resize_and_pad(image, int(smallest), generator) for image in x[:, None]])


def _bits(images: Floats, bits: float, seed: int) -> Floats:
    top = np.float32(2**bits - 1)
    levels: Floats = np.rint(images * top)
    return levels / top


def _jpeg(images: Floats, quality: float, seed: int) -> Floats:
    def code(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return np.asarray(decoded, np.uint8)[..., ::-1]

    return _by_image(images, lambda image: code(np.rint(image * 255).astype(np.uint8)) / 255)


def _total_variation(images: Floats, weight: float, seed: int) -> Floats:
    """Chambolle's algorithm, by scikit-image."""
    denoise: Any = denoise_tv_chambolle
    return _by_image(images, lambda image: denoise(image, weight=weight, channel_axis=-1))


def _by_image(images: Floats, change: Callable[[Any], Any]) -> Floats:
    done = np.empty_like(images)
    for index, image in enumerate(images):
        done[index] = np.clip(change(image.transpose(1, 2, 0)), 0, 1).transpose(2, 0, 1)
    return done


def _art(make: Callable[[Any, float], Any]) -> Callable[[Floats, float, int], Floats]:
    """A preprocessor of adversarial-robustness-toolbox, on NHWC levels of 0 to 255."""

    def apply(images: Floats, strength: float, seed: int) -> Floats:
        try:
            from art.defences import preprocessor
        except ImportError as error:
            raise MissingExtraError(
                "expected adversarial-robustness-toolbox for this defence, got none: "
                'install it with `pip install "facepurify[art]"`'
            ) from error
        levels = np.rint(images.transpose(0, 2, 3, 1) * 255).astype(np.float32)
        state = np.random.get_state()  # noqa: NPY002 - ART draws from numpy's global generator
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its own use of what Pillow and SciPy deprecate
                purified, _ = make(preprocessor, strength)(levels)
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return np.ascontiguousarray(purified.transpose(0, 3, 1, 2) / 255, np.float32)

    return apply


_TENSOR = {
    "none": _Family[Tensor](lambda x, strength, seed: x),
    "grey": _Family[Tensor](_grey),
    "gaussian": _Family[Tensor](_gaussian, 1, 0.1, 10),
    "median": _Family[Tensor](_median, 3, 3, 15),
    "resize_pad": _Family[Tensor](_resize_and_pad, 100, 56, 111, random=True),
}
_ARRAY = {
    "jpeg": _Family[Floats](_jpeg, 75, 1, 100),
    "bits": _Family[Floats](_bits, 4, 1, 8),
    "tv": _Family[Floats](_total_variation, 0.1, 0.001, 10),
    "art:jpeg": _Family[Floats](
        _art(lambda art, quality: art.JpegCompression((0, 255), int(quality))), 50, 1, 95
    ),
    "art:smoothing": _Family[Floats](
        _art(lambda art, side: art.SpatialSmoothing(int(side), clip_values=(0, 255))), 3, 2, 15
    ),
    "art:squeezing": _Family[Floats](
        _art(lambda art, bits: art.FeatureSqueezing((0, 255), int(bits))), 4, 1, 8
    ),
    "art:tvm": _Family[Floats](
        _art(lambda art, p: art.TotalVarMin(p, clip_values=(0, 255))), 0.3, 0.01, 1, random=True
    ),
}


def get_defence(name: str) -> Defence:
    """Makes a defence by name.

    Args:
        name: a baseline and its strength ("jpeg75", "gaussian1.5"; without a number, its
            default), or a purifier's name or file, with ":" and a mask after it if wanted
            ("pin:sampled").

    Raises:
        OptionError: a strength out of range, or no baseline and no purifier of that name.
        ModelError: the purifier's file is not one that can run.

    >>> get_defence("jpeg").name
    'jpeg75'
    >>> get_defence("resize_pad").random
    True
    """
    match = re.fullmatch(r"([a-z_]+|art:[a-z]+?)(\d+(?:\.\d+)?)?", name)
    if match and (match[1] in _TENSOR or match[1] in _ARRAY):
        return _baseline(match[1], match[2])
    model, _, mask = name.rpartition(":")
    try:
        return PurifierDefence(model, mask) if mask in MASKS else PurifierDefence(name)
    except ModelNotFoundError as error:
        known = ", ".join([*_TENSOR, *_ARRAY])
        raise OptionError(
            f"unknown defence {name!r}: expected one of {known}, or a purifier: {error}"
        ) from error


def _baseline(name: str, number: str | None) -> Defence:
    family = _TENSOR.get(name) or _ARRAY[name]
    if family.default is None and number is None:
        strength, full_name = 0.0, name
    elif family.default is not None:
        strength = float(number) if number else family.default
        full_name = f"{name}{strength:g}"
    else:
        raise OptionError(f"expected {name} without a number, got {name}{number}")
    if not family.lowest <= strength <= family.highest:
        raise OptionError(
            f"expected {name} with {family.lowest:g} to {family.highest:g}, got {number}"
        )
    if name in _TENSOR:
        return _TensorBaseline(full_name, _TENSOR[name], strength)
    return _ArrayBaseline(full_name, _ARRAY[name], strength)
