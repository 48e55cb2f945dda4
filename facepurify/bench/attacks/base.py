"""What every attack on an embedding shares: the goal, the budget, the 8-bit grid.

An attack sees any differentiable pipeline ``embed`` from images to unit embeddings and an anchor
embedding for each image. Dodging lowers the cosine to the anchor (the attacker's own reference),
impersonation raises it (the victim's). Inside an attack, images are in grey levels (0 to 255), so
that budgets and steps are whole numbers and rounding to 8 bits is exact.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from facepurify.errors import AttackError, OptionError

__all__ = [
    "GOALS",
    "NORMS",
    "Attack",
    "Best",
    "Embed",
    "Goal",
    "Norm",
    "Problem",
    "check_levels",
    "per_image",
]

Embed = Callable[[Tensor], Tensor]
Goal = Literal["dodging", "impersonation"]
Norm = Literal["linf", "l2"]
GOALS: tuple[Goal, ...] = ("dodging", "impersonation")
NORMS: tuple[Norm, ...] = ("linf", "l2")
_TINY = 1e-12


def check_levels(eps: float) -> None:
    """Refuses an L-inf budget that the 8-bit grid cuts, for what is measured would be of another.

    Raises:
        OptionError: it is no whole number of grey levels from 1 to 255.
    """
    if eps not in range(1, 256):
        raise OptionError(
            f"expected an L-inf eps of whole grey levels from 1 to 255, got {eps}: "
            "give one meant for images in [0, 1] times 255, rounded"
        )


def per_image(values: Tensor) -> Tensor:
    """[N] to [N, 1, 1, 1], to scale images by.

    >>> per_image(torch.ones(2)).shape
    torch.Size([2, 1, 1, 1])
    """
    return values.reshape(-1, 1, 1, 1)


def _lengths(images: Tensor) -> Tensor:
    return per_image(images.flatten(1).norm(dim=1))


def _round_inside(delta: Tensor, eps: Tensor) -> Tensor:
    """Rounds [N, D] inside the L2 ball of radius ``eps`` [N, 1], which must hold ``delta``.

    To the nearest integer; where that leaves the ball, the entries that rounding lengthened most
    are cut towards zero instead, as few as it takes. Cutting all of them shortens ``delta``.
    """
    rounded = delta.round()
    excess = rounded.square().sum(1, keepdim=True) - eps.square()
    if not bool((excess > 0).any()):
        return rounded
    grown = rounded.abs() - delta.abs()
    # Colours that move alike differ in the last bit only, which depends on the batch.
    order = grown.round(decimals=6).argsort(dim=1, descending=True, stable=True)
    gain = torch.where(grown > 0, 2 * rounded.abs() - 1, 0).gather(1, order)
    cut = (gain > 0) & (gain.cumsum(1) - gain < excess)
    return rounded - rounded.sign() * torch.zeros_like(rounded).scatter(1, order, cut.to(rounded))


@dataclass(frozen=True)
class Problem:
    """One batch to attack, in grey levels.

    Attributes:
        embed: differentiable, images [N, 3, H, W] in [0, 1] to unit embeddings [N, d].
        clean: [N, 3, H, W], whole numbers 0 to 255.
        anchor: [N, d], unit embeddings.
        goal: what to do to the cosine.
        eps: [N, 1, 1, 1], radius of the ball in grey levels.
        norm: of the ball; the L2 length is that of a whole image in grey levels.
        generator: all randomness. A draw is shared by the images of a batch, so that an image's
            result does not depend on the batch that it came in.
    """

    embed: Embed
    clean: Tensor
    anchor: Tensor
    goal: Goal
    eps: Tensor
    norm: Norm
    generator: torch.Generator

    def _gain(self, levels: Tensor) -> Tensor:
        cosine = (self.embed(levels / 255) * self.anchor).sum(1)
        return -cosine if self.goal == "dodging" else cosine

    @torch.no_grad()
    def value(self, levels: Tensor) -> Tensor:
        """[N], higher is better for the attacker: the cosine, negated when dodging."""
        return self._gain(levels)

    def value_and_gradient(
        self, levels: Tensor, view: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The value [N] of ``view`` of ``levels`` [N, 3, H, W], and its gradient by ``levels``.

        Raises:
            AttackError: there is no gradient, or it is not finite.
        """
        levels = levels.detach().requires_grad_()
        with torch.enable_grad():
            value = self._gain(levels if view is None else view(levels))
            if not value.requires_grad:
                raise AttackError(
                    "expected a differentiable pipeline, got one without a gradient: "
                    "attack it with BPDA (facepurify.bench.adaptive) or with Square"
                )
            (gradient,) = torch.autograd.grad(value.sum(), levels)
        if not bool(gradient.isfinite().all()):
            raise AttackError("expected a finite gradient, got NaN or infinity: check the model")
        return value.detach(), gradient

    def uniform(self) -> Tensor:
        """One draw [1, 3, H, W] from [-1, 1), the same for all images."""
        shape = (1, *self.clean.shape[1:])
        draw = torch.empty(shape, device=self.generator.device)
        return draw.uniform_(-1, 1, generator=self.generator).to(self.clean)

    def integer(self, low: int, high: int) -> int:
        """One draw from ``low`` to ``high - 1``, the same for all images."""
        generator = self.generator
        return int(torch.randint(low, high, (), generator=generator, device=generator.device))

    def random_start(self) -> Tensor:
        """A random point of the ball: uniform in L-inf; on the sphere in L2."""
        draw = self.uniform()
        return self.project(
            self.clean + self.eps * (draw if self.norm == "linf" else draw / _lengths(draw))
        )

    def steepest(self, direction: Tensor) -> Tensor:
        """The direction's unit step in the norm: its sign, or itself over its length."""
        if self.norm == "linf":
            return direction.sign()
        return direction / _lengths(direction).clamp_min(_TINY)

    def project(self, levels: Tensor) -> Tensor:
        """Brings points inside the ball, then inside [0, 255]."""
        delta = levels - self.clean
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * (self.eps / _lengths(delta).clamp_min(_TINY)).clamp_max(1)
        return (self.clean + delta).clamp(0, 255)

    def quantise(self, levels: Tensor) -> Tensor:
        """The image that an 8-bit file delivers: whole numbers, exactly inside ball and range."""
        if self.norm == "linf":
            radius = self.eps.floor()
            delta = (self.project(levels) - self.clean).round().clamp(-radius, radius)
        else:
            exact = (self.project(levels.double()) - self.clean).flatten(1)
            delta = _round_inside(exact, self.eps.double().flatten(1)).reshape(levels.shape)
        return self.clean + delta.to(self.clean)


class Best:
    """Keeps the strongest image seen so far for each image of a batch."""

    def __init__(self, levels: Tensor, value: Tensor) -> None:
        self.levels = levels
        self.value = value

    def update(self, levels: Tensor, value: Tensor) -> Tensor:
        """Takes over where ``value`` [N] is higher; returns where, as bool [N]."""
        better = value > self.value
        self.levels = torch.where(per_image(better), levels, self.levels)
        self.value = torch.where(better, value, self.value)
        return better


@dataclass(frozen=True)
class Attack(abc.ABC):
    """An attack and its parameters, as a value.

    Subclasses are frozen dataclasses that implement ``run`` on a ``Problem``.

    Attributes:
        goals: what it can do; most can do both.
        norms: of the balls that it can stay in; most can in both.
        family: the name without its number, as ``get_attack`` knows it.
        count: the field that the name's number sets ("steps" in "pgd40"); "" for none.
        norm: of the ball that the attack stays in.
    """

    goals: ClassVar[tuple[Goal, ...]] = GOALS
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    family: ClassVar[str]
    count: ClassVar[str] = ""
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.norm not in self.norms:
            raise AttackError(
                f"expected norm {' or '.join(self.norms)} for {self.family}, got {self.norm!r}"
            )
        if self.count and self.cost < 1:
            raise AttackError(f"expected {self.count} >= 1, got {self.cost}")

    @property
    def name(self) -> str:
        """The name that ``get_attack`` makes it from: "fgsm", "pgd40", "pgd40-l2"."""
        number = getattr(self, self.count) if self.count else ""
        return f"{self.family}{number}{'' if self.norm == 'linf' else '-l2'}"

    @property
    def cost(self) -> int:
        """Gradient calls for each image (queries, for a black-box attack)."""
        return int(getattr(self, self.count)) if self.count else 1

    @abc.abstractmethod
    def run(self, problem: Problem) -> Tensor:
        """The attacked batch in grey levels, as ``problem.quantise`` returns it."""

    def key(self) -> str:
        """All parameters in a stable string, to cache results under."""
        return repr(self)

    def __call__(
        self,
        embed: Embed,
        x: Tensor,
        anchor: Tensor,
        goal: Goal,
        eps: float | Tensor,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Attacks a batch.

        Args:
            embed: differentiable, images [N, 3, H, W] in [0, 1] to unit embeddings [N, d].
            x: [N, 3, H, W] in [0, 1], on the 8-bit grid.
            anchor: [N, d], unit embeddings: each image's own reference, or the victim's.
            goal: "dodging" or "impersonation".
            eps: radius in units of 1/255, one or [N].
            generator: all randomness; the same seed gives the same images.

        Returns:
            [N, 3, H, W] in [0, 1], on the 8-bit grid and inside the ball exactly.

        Raises:
            AttackError: an argument is not as above, or the pipeline has no usable gradient.
        """
        if goal not in self.goals:
            raise AttackError(
                f"expected goal {' or '.join(self.goals)} for {self.name}, got {goal!r}"
            )
        if x.ndim != 4 or anchor.ndim != 2 or len(anchor) != len(x):
            raise AttackError(
                "expected images [N, 3, H, W] and one anchor [N, d] each, "
                f"got {tuple(x.shape)} and {tuple(anchor.shape)}"
            )
        radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
        if radius.ndim > 1 or (radius.ndim == 1 and len(radius) != len(x)):
            raise AttackError(f"expected one eps or {len(x)}, got {tuple(radius.shape)}")
        if not bool(((radius >= 0) & radius.isfinite()).all()):
            raise AttackError(f"expected eps >= 0 in units of 1/255, got {eps}")
        clean = (x.detach() * 255).round()
        if not bool(((clean - x.detach() * 255).abs() < 1e-2).all()) or not bool(
            ((clean >= 0) & (clean <= 255)).all()
        ):
            raise AttackError(
                "expected images in [0, 1] on the 8-bit grid, got values between or outside: "
                "round them with (x * 255).round() / 255"
            )
        problem = Problem(
            embed,
            clean,
            anchor.detach(),
            goal,
            per_image(radius.expand(len(x))),
            self.norm,
            generator,
        )
        return self.run(problem) / 255
