"""The immune network: a denoiser whose output passes an antibody of its own, trained as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from facepurify.bench.recognizers import Recognizer
from facepurify.train.attack_pack import AttackPack
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.pin import PinNet, mean_mask
from facepurify.train.uddn import UddnNet, check_plain

__all__ = ["ImmuneNet", "mask_gap"]


class ImmuneNet(UddnNet):
    """UDDN, then PIN's projection: what the denoiser leaves must still fit into the immune space.

    Trained through the mean of the sampled mask, V diag(p) V^T, which is the exact expectation of
    the projection and the mask that ships. The selector sees the denoised face; the suspicion is
    the denoiser's, which sees the face as it came.

    Args:
        denoiser: whose weights to begin from; its convolutions are shared, not copied.
        pin: selector, immune space and share to begin from; likewise.

    Raises:
        OptionError: the denoiser is itself built on one.
    """

    def __init__(self, denoiser: UddnNet, pin: PinNet) -> None:
        super().__init__(denoiser.size)
        check_plain(denoiser)
        self.front, self.unet, self.suspicion = denoiser.front, denoiser.unet, denoiser.suspicion
        self.pin = pin
        pin.suspicion.requires_grad_(False)

    @property
    def space(self) -> ImmuneSpace:
        """What the denoised face is projected onto."""
        return self.pin.space

    def denoiser(self) -> UddnNet:
        """The denoiser alone, in evaluation mode; its weights are shared, not copied."""
        alone = UddnNet(self.size)
        alone.front, alone.unet, alone.suspicion = self.front, self.unet, self.suspicion
        return alone.eval()

    def restore(
        self, x: Tensor, antibody: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[N, 3, 112, 112] RGB in [0, 1] to the same, purified; more, as ``PinNet.restore``.

        Coefficients and p are those of the denoised face, the logit is the suspicion.

        Args:
            x: the images.
            antibody: p to how much of each eigenface is kept.
        """
        denoised, suspicion = self.denoise(x)
        purified, coefficients, probability, _ = self.pin.restore(denoised, antibody)
        return purified, coefficients, probability, suspicion

    @override
    def train(self, mode: bool = True) -> ImmuneNet:
        """PIN keeps the statistics that it was trained with: a shipped file has them folded in."""
        super().train(mode)
        self.pin.eval()
        return self

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 112, 112] RGB in [0, 1] to the same, purified, and the suspicion's logit [N]."""
        purified, _, _, suspicion = self.restore(x, mean_mask)
        return purified, suspicion


@torch.no_grad()
def mask_gap(
    net: ImmuneNet, pack: AttackPack, guides: Sequence[Recognizer], count: int = 64
) -> dict[str, dict[str, float]]:
    """How far the published hard masks are from the mean mask that was trained and ships.

    Args:
        net: the trained network.
        pack: whose first attacked faces are purified.
        guides: recognizers to see the difference with.
        count: faces at most.

    Returns:
        For "fixed" (p > mean of p) and "sampled" (p > u, one draw under a seed of 0): "pixels", the
        mean absolute difference in grey levels, and 1 - cos under each guide's name.
    """
    _, attacked = pack.images(torch.arange(min(count, len(pack))), mirrored=False)
    mean, _, probability, _ = net.restore(attacked, mean_mask)
    uniform = torch.rand(probability.shape, generator=torch.Generator().manual_seed(0))

    def hard(bound: Tensor) -> Tensor:
        return net.restore(attacked, lambda p: (p > bound).float())[0]

    gaps = {}
    for name, bound in (("fixed", probability.mean(1, keepdim=True)), ("sampled", uniform)):
        images = hard(bound)
        gaps[name] = {"pixels": 255 * float((images - mean).abs().mean())}
        for guide in guides:
            cosine = (guide.embed(images) * guide.embed(mean)).sum(dim=1)
            gaps[name][guide.name] = float(1 - cosine.mean())
    return gaps
