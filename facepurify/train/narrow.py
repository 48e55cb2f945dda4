"""UDDN behind a fixed projection: an attacker who knows both has few directions left."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from facepurify.train.basis import Basis
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.uddn import UddnNet, check_plain

__all__ = ["NarrowNet"]


class NarrowNet(UddnNet):
    """Nothing outside the span of the leading eigenfaces reaches the denoiser, or gets past it.

    Beyond the papers. A residual denoiser hands on what it does not recognise, so somebody who
    attacks through it has every pixel to do so. Here the projection of PIN, with all its
    eigenfaces kept, comes first, and the denoiser learns to restore what recognizers miss then.

    Args:
        denoiser: whose weights to begin from; its convolutions are shared, not copied.
        basis: the eigenfaces.

    Raises:
        OptionError: the denoiser is itself built on one.
    """

    def __init__(self, denoiser: UddnNet, basis: Basis) -> None:
        super().__init__(denoiser.size)
        check_plain(denoiser)
        self.unet, self.suspicion = denoiser.unet, denoiser.suspicion
        self.space = ImmuneSpace(basis)

    @override
    def denoise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().denoise(self.space.decode(self.space.encode(x)))
