"""How faces reach a purifier: resized, stored as JPEG, before an attack and after it.

The files of a face set are JPEG and a pack's attacks are not. A network that sees nothing else
takes "has no trace of JPEG" for "was attacked", and attacks that were stored as JPEG get through.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from facepurify.honest import recoded

__all__ = ["as_file", "recompress", "recompress_some", "resize", "with_history"]

Bytes = npt.NDArray[np.uint8]
QUALITIES = (15, 98)
SIDES = (76, 168)


def as_file(images: Tensor) -> Tensor:
    """What an 8-bit file keeps of images in [0, 1]."""
    return (images.clamp(0, 1) * 255).round() / 255


def with_history(
    clean: Tensor, attacked: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Faces of mixed histories, under the attacks that a pack has on them.

    A third of the faces stay as they are, a third are resized, a third are resized and then stored
    as JPEG. The attack's perturbation is moved onto the face that results, unchanged.

    Args:
        clean: [N, 3, H, W] in [0, 1].
        attacked: the same under attack.
        generator: of the draws.

    Returns:
        Clean and attacked faces, rounded to 8 bits.
    """
    draw = torch.rand(len(clean), generator=generator)
    resized, stored = draw < 2 / 3, draw < 1 / 3
    perturbation, clean = attacked - clean, clean.clone()
    clean[resized] = resize(clean[resized], generator)
    clean[stored] = recompress(clean[stored], generator)
    return clean, as_file(clean + perturbation)


def resize(images: Tensor, generator: torch.Generator) -> Tensor:
    """To another size and back, as alignment resamples a face of a photo; it stays in its place.

    It wipes out the grid that JPEG leaves. The other side is 76 to 168 pixels, drawn evenly for
    each image.

    Args:
        images: [N, 3, H, W] in [0, 1].
        generator: of the draws.

    Returns:
        The same shape, rounded to 8 bits.
    """
    low, high = SIDES
    drawn = torch.randint(low, high + 1, (len(images),), generator=generator).tolist()
    files = _files(images)
    for number, side in enumerate(drawn):  # OpenCV takes one image a call
        there = cv2.INTER_AREA if side < files.shape[1] else cv2.INTER_CUBIC
        other = cv2.resize(files[number], (side, side), interpolation=there)
        cv2.resize(other, files.shape[2:0:-1], dst=files[number], interpolation=cv2.INTER_CUBIC)
    return _tensor(files)


def recompress(images: Tensor, generator: torch.Generator) -> Tensor:
    """Through JPEG and back, at a quality from 15 to 98; a third of the images below 60.

    As the square of an even draw below the best, since badly stored faces are the rarer ones.

    Args:
        images: [N, 3, H, W] RGB in [0, 1].
        generator: of the draws.

    Returns:
        The same shape.
    """
    low, high = QUALITIES
    worse = torch.rand(len(images), generator=generator).square()
    qualities = (high - (high - low) * worse).round().int().tolist()
    files = _files(images)
    for number, quality in enumerate(qualities):
        files[number] = recoded(files[number], quality)
    return _tensor(files)


def recompress_some(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A share of the images [N, 3, H, W], drawn at random, through JPEG; on any device."""
    images = images.clone()
    chosen = torch.rand(len(images), generator=generator) < share
    images[chosen] = recompress(images[chosen].cpu(), generator).to(images.device)
    return images


def _files(images: Tensor) -> Bytes:
    """uint8 [N, H, W, 3] BGR, as OpenCV has images."""
    scaled = (255 * images).round().byte().permute(0, 2, 3, 1).flip(3)
    return np.ascontiguousarray(scaled.numpy())


def _tensor(files: Bytes) -> Tensor:
    return torch.from_numpy(files).flip(3).permute(0, 3, 1, 2).float() / 255
