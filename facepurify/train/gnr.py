"""GNR: new attack noise from a Wasserstein GAN with gradient penalty (UDDN's first stage)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from facepurify.bench.attacks.base import per_image
from facepurify.errors import OptionError
from facepurify.train.attack_pack import STRENGTHS, AttackPack
from facepurify.train.loop import Loop, Stateful
from facepurify.train.optimiser import check_finite

__all__ = [
    "GNR_SIZES",
    "Gnr",
    "GnrRecipe",
    "GnrSize",
    "fit_gnr",
    "gradient_penalty",
    "real_noise",
    "split",
]

LATENT = 64
FIRST_SIDE = 14
HELD_OUT = 10


@dataclass(frozen=True)
class GnrSize:
    """Widths of both networks, and the convolutions of a unit.

    Attributes:
        generator: channels of the three units of deconvolution.
        critic: channels of its first layer and its three units.
        layers: convolutions after each deconvolution.
        side: of a kernel.
    """

    generator: tuple[int, int, int]
    critic: tuple[int, int, int, int]
    layers: int
    side: int


GNR_SIZES = {
    "light": GnrSize((64, 32, 16), (16, 32, 64, 128), 1, 3),
    "published": GnrSize((256, 128, 64), (64, 128, 256, 512), 3, 5),
}


@dataclass(frozen=True)
class GnrRecipe:
    """How GNR is trained.

    Attributes:
        steps: of the generator.
        batch: noises a step.
        rate: of Adam, beta 0 and 0.9 (Gulrajani et al., arXiv 1704.00028).
        penalty: lambda of the gradient penalty.
        critic_steps: of the critic for each of the generator.
    """

    steps: int = 1500
    batch: int = 16
    rate: float = 2e-4
    penalty: float = 10.0
    critic_steps: int = 5

    def __post_init__(self) -> None:
        if self.critic_steps < 1 or self.penalty < 0:
            raise OptionError(
                "expected critic_steps of 1 or more and a penalty of 0 or more, "
                f"got {self.critic_steps} and {self.penalty}"
            )


class Gnr(nn.Module):
    """Generator and critic of noise over its strength: [N, 3, 112, 112] in [-1, 1].

    Both are told the strength. Beyond the light widths, two things differ from the paper: the
    critic has no batch norm, which would undo a penalty on the gradient of each single noise, and
    its output is a score, not a probability, as eq. 3 wants it.

    Args:
        size: "light" or "published".

    Raises:
        OptionError: another size.
    """

    def __init__(self, size: str = "light") -> None:
        super().__init__()
        if size not in GNR_SIZES:
            raise OptionError(f"expected a size of {', '.join(GNR_SIZES)}, got {size!r}")
        widths = GNR_SIZES[size]
        first = widths.generator[0]
        self.seed = nn.Sequential(
            nn.Linear(LATENT + 1, first * FIRST_SIDE**2),
            nn.Unflatten(1, (first, FIRST_SIDE, FIRST_SIDE)),
        )
        inputs = (first, *widths.generator)
        self.generator = nn.Sequential(
            *(_Deconv(a, b, widths) for a, b in itertools.pairwise(inputs)),
            nn.Conv2d(widths.generator[-1], 3, 3, padding=1),
            nn.Tanh(),
        )
        layers: list[nn.Module] = []
        for number, (a, b) in enumerate(itertools.pairwise((4, *widths.critic))):
            stride = 1 if number == 0 else 2
            layers += [
                nn.Conv2d(a, b, widths.side, stride, widths.side // 2), nn.LeakyReLU(0.2)
            ]  # fmt: skip
        self.critic = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(widths.critic[-1] * FIRST_SIDE**2, 1)
        )

    def draw(self, strength: Tensor, generator: torch.Generator) -> Tensor:
        """New noise over its strength, for strengths [N] in units of 1/255; with a gradient."""
        latent = torch.randn(len(strength), LATENT, generator=generator)
        told = strength[:, None] / max(STRENGTHS)
        noise: Tensor = self.generator(self.seed(torch.cat([latent, told], dim=1)))
        return noise

    def judge(self, noise: Tensor, strength: Tensor) -> Tensor:
        """The critic's score [N] of noise over its strength; higher for real."""
        told = per_image(strength / max(STRENGTHS)).expand(-1, 1, *noise.shape[2:])
        score: Tensor = self.critic(torch.cat([noise, told], dim=1)).squeeze(1)
        return score

    @torch.no_grad()
    def sample(self, count: int, strength: Tensor | float, generator: torch.Generator) -> Tensor:
        """Draws noise to add to images in [0, 1].

        Args:
            count: how many.
            strength: L-infinity, in units of 1/255; one, or [count].
            generator: of the latents.

        Returns:
            [count, 3, 112, 112], nowhere beyond the strength.
        """
        each = torch.as_tensor(strength, dtype=torch.float32).expand(count)
        return self.draw(each, generator) * per_image(each) / 255


def real_noise(pack: AttackPack, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Attack minus clean of some faces over their strength, in [-1, 1], and the strengths [n]."""
    clean, attacked = pack.images(rows, mirrored=False)
    strength = torch.from_numpy(pack.strength[rows.numpy()])
    return 255 * (attacked - clean) / per_image(strength), strength


def split(pack: AttackPack) -> tuple[Tensor, Tensor]:
    """The faces to fit on, and the tenth that is kept to measure with."""
    rows = torch.arange(len(pack))
    return rows[rows % HELD_OUT != 0], rows[rows % HELD_OUT == 0]


def gradient_penalty(net: Gnr, real: Tensor, drawn: Tensor, strength: Tensor, at: Tensor) -> Tensor:
    """(|grad F| - 1)^2 on the line between real and drawn noise, eq. 3; a mean.

    Args:
        net: whose critic is F.
        real: noise over its strength.
        drawn: as many from the generator.
        strength: [N] of both.
        at: [N], 0 to 1, where on the line.
    """
    point = (per_image(at) * real + per_image(1 - at) * drawn).requires_grad_()
    score = net.judge(point, strength).sum()
    (gradient,) = torch.autograd.grad(score, point, create_graph=True)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


def fit_gnr(
    net: Gnr,
    pack: AttackPack,
    recipe: GnrRecipe,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Trains generator and critic in place; the run lies in ``folder``.

    A tenth of the pack is kept out, to measure with.
    """
    rows, _ = split(pack)
    making = [*net.seed.parameters(), *net.generator.parameters()]
    judging = list(net.critic.parameters())
    makes, judges = (
        torch.optim.Adam(parameters, recipe.rate, betas=(0.0, 0.9))
        for parameters in (making, judging)
    )
    parts: dict[str, Stateful] = {"net": net, "makes": makes, "judges": judges}
    net.train()
    sources = {"attacks": pack.digest}
    loop = Loop(folder, parts, recipe, seed=seed, resume=resume, sources=sources)
    for _, generator in loop:
        for _ in range(recipe.critic_steps):
            chosen = torch.randint(len(rows), (recipe.batch,), generator=generator)
            real, strength = real_noise(pack, rows[chosen])
            with torch.no_grad():
                drawn = net.draw(strength, generator)
            distance = (net.judge(real, strength) - net.judge(drawn, strength)).mean()
            at = torch.rand(recipe.batch, generator=generator)
            penalty = gradient_penalty(net, real, drawn, strength, at)
            judged = recipe.penalty * penalty - distance
            check_finite(judged)
            judges.zero_grad()
            judged.backward()
            judges.step()
        drawn = net.draw(strength, generator)
        loss = -net.judge(drawn, strength).mean()
        check_finite(loss)
        makes.zero_grad()
        loss.backward()
        makes.step()
        loop.log(wasserstein=float(distance.detach()), penalty=float(penalty.detach()))
    net.eval()


class _Deconv(nn.Module):
    """The paper's DeconvUnit: a deconvolution, then convolutions with a connection around them."""

    def __init__(self, inputs: int, width: int, size: GnrSize) -> None:
        super().__init__()
        self.grow = nn.Sequential(
            nn.ConvTranspose2d(inputs, width, 4, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        layers: list[nn.Module] = []
        for _ in range(size.layers):
            convolution = nn.Conv2d(width, width, size.side, padding=size.side // 2)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        grown = self.grow(x)
        out: Tensor = grown + self.layers(grown)
        return out
