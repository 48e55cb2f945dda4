"""The denoising autoencoder that UDDN's authors compare with: no lateral connections, pixels only.

Li and Wang, Electronics 2018, section 3.2: "a DAE can be obtained by removing the horizontal
connection in UDDN"; it makes the whole image, not the noise, and knows no recognizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from facepurify.train.attack_pack import AttackPack
from facepurify.train.loop import Loop
from facepurify.train.optimiser import Optimiser
from facepurify.train.shares import check_shares
from facepurify.train.uddn import LightUNet

__all__ = ["Autoencoder", "AutoencoderRecipe", "fit_autoencoder"]


class Autoencoder(LightUNet):
    """The light U-Net without its lateral connections; what it gives is the image itself."""

    @override
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """[N, 3, 112, 112] RGB in [0, 1] to the same, purified. Untrained: grey."""
        x = x * 2 - 1
        for stage in self.down:
            x = stage(x)
        for grow, blocks in zip(self.grow, self.up, strict=True):
            x = blocks(torch.relu(grow(x)))
        image: Tensor = self.pixels(self.noise(x))
        return (image + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How the autoencoder is trained.

    Attributes:
        steps: of the optimiser.
        batch: images a step.
        rate: peak learning rate of AdamW, one cosine down to zero.
        clean: share of the images that are left clean.
    """

    steps: int = 3000
    batch: int = 32
    rate: float = 2e-3
    clean: float = 0.25

    def __post_init__(self) -> None:
        check_shares(clean=self.clean)


def fit_autoencoder(
    net: Autoencoder,
    pack: AttackPack,
    recipe: AutoencoderRecipe,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Trains ``net`` in place on the pixels of a pack; the run lies in ``folder``."""
    net.to(memory_format=torch.channels_last)
    net.train()
    optimiser = Optimiser(net.parameters(), recipe.rate, recipe.steps)
    parts = {"net": net, **optimiser.parts}
    sources = {"attacks": pack.digest}
    loop = Loop(folder, parts, recipe, seed=seed, resume=resume, sources=sources)
    for _, generator in loop:
        _, _, clean, attacked = pack.draw(recipe.batch, generator)
        is_clean = torch.rand(len(clean), generator=generator) < recipe.clean
        seen = torch.where(is_clean.view(-1, 1, 1, 1), clean, attacked)
        purified = net(seen.contiguous(memory_format=torch.channels_last))
        loss = nn.functional.l1_loss(purified, clean)
        optimiser.step(loss)
        loop.log(pixel=255 * float(loss.detach()))
    net.eval()
