"""Noise that is no attack: a denoiser that never sees it learns the marks of a few attacks only."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from facepurify.bench.attacks.base import per_image
from facepurify.train.attack_pack import STRENGTHS
from facepurify.train.delivery import as_file

__all__ = [
    "DrawNoise",
    "add_noise",
    "band_noise",
    "corrupt",
    "draw_strengths",
    "gaussian_noise",
    "sensor_noise",
    "sort_out",
    "square_noise",
]

PUBLISHED = 0.04
GRAIN = 12  # grey levels, the most of a sensor's
DrawNoise = Callable[[Tensor, torch.Generator], Tensor]


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


def corrupt(
    clean: Tensor,
    attacked: Tensor,
    kinds: dict[str, Tensor],
    generator: torch.Generator,
    draw_noise: DrawNoise | None = None,
) -> Tensor:
    """What a network gets of each kind.

    Args:
        clean: [N, 3, H, W] in [0, 1].
        attacked: the same under attack.
        kinds: as ``sort_out`` gives them. "attacked", "noisy" (Gaussian), "sensor",
            "band", "square" and "generated" are told from one another, all others stay clean.
        generator: of the noise.
        draw_noise: GNR's, needed for "generated".

    Returns:
        The same shape; the noisy ones as an 8-bit file delivers them.
    """
    seen = torch.where(per_image(kinds["attacked"]), attacked, clean)
    nothing = torch.zeros(len(clean), dtype=torch.bool)
    for name, of_image in (("noisy", gaussian_noise), ("sensor", sensor_noise)):
        if bool((chosen := kinds.get(name, nothing)).any()):
            seen[chosen] = add_noise(clean[chosen], of_image(clean[chosen], generator))
    for name, draw in (("band", band_noise), ("square", square_noise)):
        if count := int((chosen := kinds.get(name, nothing)).sum()):
            strength = per_image(draw_strengths(count, generator)) / 255
            noise = draw(count, clean.shape[-1], generator)
            seen[chosen] = add_noise(clean[chosen], strength * noise)
    generated = kinds.get("generated", nothing)
    if draw_noise is not None and bool(generated.any()):
        strength = draw_strengths(int(generated.sum()), generator)
        seen[generated] = add_noise(clean[generated], draw_noise(strength, generator))
    return seen


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


def sensor_noise(clean: Tensor, generator: torch.Generator) -> Tensor:
    """A camera's in little light, as strong as attacks are and of all their frequencies.

    Gaussian, of a standard deviation drawn evenly from 0 to 12 grey levels for each image, and of
    a correlation between the colours drawn evenly from 0 (each pixel's own) to 1 (all grey).

    Args:
        clean: [N, 3, H, W] in [0, 1].
        generator: of the noise.

    Returns:
        Noise of the same shape, on the scale of [0, 1].
    """
    sigma, grey = torch.rand(2, len(clean), generator=generator)
    own = torch.randn(clean.shape, generator=generator)
    common = torch.randn(clean[:, :1].shape, generator=generator)
    noise = per_image((1 - grey).sqrt()) * own + per_image(grey.sqrt()) * common
    return per_image(GRAIN / 255 * sigma) * noise


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


def square_noise(count: int, side: int, generator: torch.Generator) -> Tensor:
    """What a black-box attack by random search tries: stripes, then squares over them.

    As the Square attack (arXiv 1912.00049) draws them, without its choice of what helps: one sign
    for each channel of each stripe and of each of up to 64 squares, whose sides are between a
    thirtieth and two thirds of the image's, as many of each scale. Stripes are vertical for half
    of the images and horizontal for the others, so that their direction is no mark to go by.

    Returns:
        [count, 3, side, side], of -1 and 1.
    """

    def signs(*shape: int) -> Tensor:
        return (2 * torch.randint(2, shape, generator=generator) - 1).float()

    noise = signs(count, 3, 1, side).repeat(1, 1, side, 1)
    for image, squares in zip(noise, _integers(65, count, generator), strict=True):
        for scale in torch.rand(squares, generator=generator).tolist():
            edge = max(round(side * 2 / 3 * 0.05**scale), 1)
            top, left = _integers(side - edge + 1, 2, generator)
            image[:, top : top + edge, left : left + edge] = signs(3, 1, 1)
    upright = torch.rand(count, generator=generator) < 0.5
    return torch.where(per_image(upright), noise, noise.transpose(2, 3))


def _integers(below: int, count: int, generator: torch.Generator) -> list[int]:
    drawn: list[int] = torch.randint(below, (count,), generator=generator).tolist()
    return drawn


def add_noise(clean: Tensor, noise: Tensor) -> Tensor:
    """The image with noise on it, as an 8-bit file delivers it."""
    return as_file(clean + noise)
