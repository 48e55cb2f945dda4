"""What happens to faces that is no attack: noise, resampling, compression.

A denoiser that never sees it learns the marks of a few attacks only, or takes the marks of a file
format for those of an honest face.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from facepurify.bench.attacks.base import per_image
from facepurify.train.attack_pack import STRENGTHS

__all__ = [
    "add_noise",
    "band_noise",
    "draw_strengths",
    "gaussian_noise",
    "recompress",
    "resample",
    "sort_out",
]

PUBLISHED = 0.04
DEGREES, ZOOM, SHIFT = 10.0, 0.15, 2.0
QUALITIES = (60, 98)


def sort_out(count: int, shares: dict[str, float], generator: torch.Generator) -> dict[str, Tensor]:
    """Draws for each of ``count`` images which of the kinds it gets; bool [count] for each.

    Args:
        count: images.
        shares: of each kind, but for "attacked", which gets the rest.
        generator: of the draw.

    >>> import torch
    >>> kinds = sort_out(100, {"clean": 0.25}, torch.Generator().manual_seed(0))
    >>> bool((kinds["clean"] ^ kinds["attacked"]).all())
    True
    """
    draw = torch.rand(count, generator=generator)
    kinds, low = {}, 0.0
    for name, share in shares.items():
        kinds[name] = (draw >= low) & (draw < low + share)
        low += share
    kinds["attacked"] = draw >= low
    return kinds


def draw_strengths(count: int, generator: torch.Generator) -> Tensor:
    """Strengths as a pack has them: [count], L-infinity in units of 1/255."""
    choice = torch.randint(len(STRENGTHS), (count,), generator=generator)
    return torch.tensor(STRENGTHS, dtype=torch.float32)[choice]


def gaussian_noise(clean: Tensor, generator: torch.Generator) -> Tensor:
    """PIN's published noise: Gaussian, 0.04 times the length of the image on [-1, 1].

    Args:
        clean: [N, 3, H, W] in [0, 1].
        generator: of the noise.

    Returns:
        Noise of the same shape, on the scale of [0, 1].
    """
    noise = torch.randn(clean.shape, generator=generator)
    length = (clean * 2 - 1).flatten(1).norm(dim=1) / 2
    return noise * per_image(PUBLISHED * length / noise.flatten(1).norm(dim=1))


def band_noise(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise of a random band of frequencies for each image.

    Both ends of the band are drawn evenly from 0 to the highest radius, at least a tenth apart.

    Returns:
        [count, 3, side, side]; the largest value of each image is 1.
    """
    rows, columns = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    radius = (rows[:, None].square() + columns.square()).sqrt() / math.sqrt(0.5)
    width = 0.1 + 0.9 * torch.rand(count, generator=generator)
    low = (1 - width) * torch.rand(count, generator=generator)
    inside = (radius >= per_image(low)) & (radius <= per_image(low + width))
    white = torch.randn(count, 3, side, side, generator=generator)
    noise: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * inside, s=(side, side))
    return noise / per_image(noise.abs().flatten(1).amax(dim=1).clamp_min(1e-12))


def add_noise(clean: Tensor, noise: Tensor) -> Tensor:
    """The image with noise on it, as an 8-bit file delivers it."""
    return _as_file(clean + noise)


def resample(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turned, zoomed and shifted a little, as alignment resamples a face of a photo.

    It wipes out the grid that JPEG leaves. Turns of at most 10 degrees, zooms of 15 per cent,
    shifts of 2 pixels, each drawn evenly for each image; beyond the border lies its mirror image.

    Args:
        images: [N, C, H, W] in [0, 1]; all channels of an image move together.
        generator: of the draws.

    Returns:
        The same shape, rounded to 8 bits.
    """
    draw = 2 * torch.rand(4, len(images), generator=generator) - 1
    angle, zoom = draw[0] * math.radians(DEGREES), 1 + draw[1] * ZOOM
    across, down = draw[2:] * 2 * SHIFT / images.shape[-1]
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    matrix = torch.stack([cos, -sin, across, sin, cos, down], dim=1).view(-1, 2, 3)
    grid = nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    warped = nn.functional.grid_sample(
        images, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return _as_file(warped)


def recompress(images: Tensor, generator: torch.Generator) -> Tensor:
    """Through JPEG and back, at a quality from 60 to 98 drawn evenly for each image.

    Args:
        images: [N, 3, H, W] RGB in [0, 1].
        generator: of the draws.

    Returns:
        The same shape.
    """
    low, high = QUALITIES
    drawn = torch.randint(low, high + 1, (len(images),), generator=generator).tolist()
    files = (255 * images).round().byte().permute(0, 2, 3, 1).flip(3).contiguous().numpy()
    out = np.empty_like(files)
    for number, quality in enumerate(drawn):  # OpenCV takes one image a call
        _, encoded = cv2.imencode(".jpg", files[number], [cv2.IMWRITE_JPEG_QUALITY, quality])
        out[number] = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return torch.from_numpy(out).flip(3).permute(0, 3, 1, 2).float() / 255


def _as_file(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255
