"""Selection of antibodies: the affinity of clones, and ways to its gradient (AIS, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from facepurify.train.pin import expected_loss

__all__ = ["GRADIENTS", "Affinity", "Shift", "clone", "leave_one_out", "select"]

GRADIENTS = ("exact+loo", "published", "straight-through", "mean")
Shift = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Affinity:
    """What an antibody is worth, as a loss: the published affinity negated.

    MSE(P_a(x'), x) + lambda |a| + gamma (1 - cos(f(P_a(x')), f(x))). The first two are separable
    over the eigenfaces, with the scales of ``expected_loss``.

    Attributes:
        clean: c, coefficients of the clean images, [N, K].
        seen: c + e, those of what the network saw, [N, K].
        price: lambda, a scalar.
        harm: how much worse the energy of noise is than lost energy.
        reconstruction: weight of the separable part.
        identity: gamma.
        shift: antibodies [C, N, K] to 1 - cos between the embeddings of the purified and the
            clean image, [C, N]; in one call of the recognizer.
    """

    clean: Tensor
    seen: Tensor
    price: Tensor
    harm: float
    reconstruction: float
    identity: float
    shift: Shift

    def separable(self, antibodies: Tensor) -> Tensor:
        """The first two parts, [..., N, K] to [..., N]; of p, their exact expectation."""
        loss = expected_loss(antibodies, self.clean, self.seen, self.price, self.harm)
        return self.reconstruction * loss

    def __call__(self, antibodies: Tensor) -> Tensor:
        """The whole, [C, N, K] to [C, N]."""
        return self.separable(antibodies) + self.named(antibodies)

    def named(self, antibodies: Tensor) -> Tensor:
        """The identity part, [C, N, K] to [C, N]; the recognizer rests where it has no weight."""
        if not self.identity:
            return torch.zeros_like(antibodies[..., 0])
        return self.identity * self.shift(antibodies)


def clone(probability: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Antibodies [count, N, K] drawn from Bernoulli(p), p [N, K].

    A certain gene (p near 0 or 1) is the same in all clones, an uncertain one mutates.
    """
    uniform = torch.rand((count, *probability.shape), generator=generator)
    return (probability.detach() > uniform.to(probability.device)).to(probability.dtype)


def leave_one_out(values: Tensor) -> Tensor:
    """Each value less the mean of the others along the first axis [C, ...], C > 1.

    What is taken off does not depend on the clone itself, so that it leaves the expectation of
    REINFORCE as it is (Kool et al., 2019), unlike the mean over all of them.

    >>> import torch
    >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0])).tolist()
    [-3.0, -1.5, 4.5]
    """
    others = (values.sum(dim=0) - values) / (len(values) - 1)
    return values - others


def select(
    probability: Tensor,
    affinity: Affinity,
    gradient: str,
    clones: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """A surrogate [N] whose gradient by p leads to better antibodies, and the affinity [N].

    The latter, which has no gradient, is the mean over the clones (of "mean", that of p).

    Args:
        probability: p, [N, K].
        affinity: of antibodies, the lower the better.
        gradient: "published": REINFORCE on the whole with the batch mean as baseline.
            "exact+loo": the exact expectation of the separable part, and REINFORCE with
            leave-one-out baselines for the identity; unbiased, as the published one is but for
            its baseline. "straight-through": the exact expectation, and the identity of the
            clones differentiated as if they were p (Bengio et al., arXiv 1308.3432). "mean": the
            exact expectation, and the identity of the mean antibody, p itself; without clones.
        clones: antibodies an image (published: 10 to 30).
        generator: of the clones.
    """
    if gradient == "mean":
        loss = affinity.separable(probability) + affinity.named(probability[None])[0]
        return loss, loss.detach()
    antibodies = clone(probability, clones, generator)
    if gradient == "straight-through":
        through = antibodies + probability - probability.detach()
        loss = affinity.separable(probability) + affinity.named(through).mean(dim=0)
        return loss, loss.detach()
    p = probability.clamp(1e-6, 1 - 1e-6)
    likelihood = (antibodies * p.log() + (1 - antibodies) * (1 - p).log()).sum(dim=2)
    with torch.no_grad():
        separable, named = affinity.separable(antibodies), affinity.named(antibodies)
        value = separable + named
        whole = gradient == "published"
        advantage = value - value.mean() if whole else leave_one_out(named)
    surrogate = (advantage * likelihood).mean(dim=0)
    if not whole:
        surrogate = surrogate + affinity.separable(probability)
    return surrogate, value.mean(dim=0)
