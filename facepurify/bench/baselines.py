"""Well-known transformations of images that take the edge off attacks.

Each is a function of a batch [N, 3, H, W] in [0, 1], a strength and a seed; with torch where it
has a gradient, else on arrays, by a library where there is one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor
from torch.nn import functional

from facepurify.bench.attacks.dim import resize_and_pad
from facepurify.bench.attacks.tim import gaussian_kernel
from facepurify.errors import MissingExtraError
from facepurify.honest import recoded

__all__ = ["ARRAY_FAMILIES", "TENSOR_FAMILIES", "Between", "Family"]

LUMA = (0.299, 0.587, 0.114)
Floats = npt.NDArray[np.float32]
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Between:
    """The numbers from one to another, both in.

    >>> 0.5 in Between(0, 1), 2 in Between(0, 1)
    (True, False)
    """

    lowest: float
    highest: float

    def __contains__(self, number: float) -> bool:
        return self.lowest <= number <= self.highest


@dataclass(frozen=True)
class Family(Generic[Kind]):
    """A well-known transformation.

    Attributes:
        apply: of a batch, a strength and a seed.
        default: strength; None where there is nothing to choose.
        strengths: what it may be.
        random: whether the seed matters.
    """

    apply: Callable[[Kind, float, int], Kind]
    default: float | None = None
    strengths: range | Between = range(0)
    random: bool = False


def _grey(x: Tensor, strength: float, seed: int) -> Tensor:
    luma = torch.tensor(LUMA).to(x).reshape(1, 3, 1, 1)
    return (x * luma).sum(1, keepdim=True).expand_as(x)


def _gaussian(x: Tensor, sigma: float, seed: int) -> Tensor:
    reach = int(np.ceil(3 * sigma))
    kernel = gaussian_kernel(2 * reach + 1, sigma).to(x).expand(3, 1, -1, -1)
    padded = functional.pad(x, (reach,) * 4, mode="reflect")
    return functional.conv2d(padded, kernel, groups=3).clamp(0, 1)


def _median(x: Tensor, side: float, seed: int) -> Tensor:
    reach = int(side) // 2
    padded = functional.pad(x, (reach,) * 4, mode="reflect")
    windows = padded.unfold(2, 2 * reach + 1, 1).unfold(3, 2 * reach + 1, 1)
    return windows.flatten(-2).median(dim=-1).values


def _resize_and_pad(x: Tensor, smallest: float, seed: int) -> Tensor:
    """Xie et al., arXiv 1711.01991, on a recognizer that takes one size; a draw per image."""
    generator = torch.Generator().manual_seed(seed)
    images = [resize_and_pad(image, int(smallest), generator) for image in x[:, None]]
    return torch.cat(images).clamp(0, 1)


def _noise(x: Tensor, sigma: float, seed: int) -> Tensor:
    """Gaussian noise in grey levels: randomised smoothing (arXiv 1902.02918), or a camera's."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    return (x + sigma / 255 * noise).clamp(0, 1)


def _bits(images: Floats, bits: float, seed: int) -> Floats:
    top = np.float32(2**bits - 1)
    levels: Floats = np.rint(images * top)
    return levels / top


def _jpeg(images: Floats, quality: float, seed: int) -> Floats:
    def code(image: Floats) -> npt.NDArray[np.float64]:
        levels = np.rint(image * 255).astype(np.uint8)
        return recoded(levels[..., ::-1], int(quality))[..., ::-1] / 255

    return _by_image(images, code)


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


TENSOR_FAMILIES = {
    "none": Family[Tensor](lambda x, strength, seed: x),
    "grey": Family[Tensor](_grey),
    "gaussian": Family[Tensor](_gaussian, 1, Between(0.1, 10)),
    "median": Family[Tensor](_median, 3, range(3, 16, 2)),
    "resize_pad": Family[Tensor](_resize_and_pad, 100, range(56, 112), random=True),
    "noise": Family[Tensor](_noise, 8, Between(0.5, 64), random=True),
}
ARRAY_FAMILIES = {
    "jpeg": Family[Floats](_jpeg, 75, range(1, 101)),
    "bits": Family[Floats](_bits, 4, range(1, 9)),
    "tv": Family[Floats](_total_variation, 0.1, Between(0.001, 10)),
    "art:jpeg": Family[Floats](
        _art(lambda art, quality: art.JpegCompression((0, 255), int(quality))), 50, range(1, 96)
    ),
    "art:smoothing": Family[Floats](
        _art(lambda art, side: art.SpatialSmoothing(int(side), clip_values=(0, 255))),
        3,
        range(2, 16),
    ),
    "art:squeezing": Family[Floats](
        _art(lambda art, bits: art.FeatureSqueezing((0, 255), int(bits))), 4, range(1, 9)
    ),
    "art:tvm": Family[Floats](
        _art(lambda art, p: art.TotalVarMin(p, clip_values=(0, 255))),
        0.3,
        Between(0.01, 1),
        random=True,
    ),
}
