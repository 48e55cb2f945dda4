"""PIN: the immune space, a selector and their losses (Ren et al., IEEE TIFS 2022, 2207.06035)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from facepurify.errors import OptionError
from facepurify.train.basis import Basis
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.selector import AnalyzerSelector, LightSelector, PublishedSelector

__all__ = [
    "SELECTORS",
    "PinNet",
    "Selector",
    "check_share",
    "expected_loss",
    "mean_mask",
    "policy_gradient_loss",
    "sparsity_weight",
]

Selector = LightSelector | PublishedSelector | AnalyzerSelector
SELECTORS: Mapping[str, type[Selector]] = {
    "light": LightSelector,
    "published": PublishedSelector,
}
MOST_SHARE = 2.0


class PinNet(nn.Module):
    """Selector and immune space: from an image to the activation probability of each eigenface.

    Beyond the published selector, which sees the image only, each eigenface's own coefficient
    counts: by the expected loss an eigenface is worth keeping if its coefficient's energy exceeds
    that of the noise in it, so the logit gets a learned multiple of the log of that energy.

    Attributes:
        share: how much of what does not fit into what is kept is taken off. Published is 1, the
            projection; more turns it around, against what else there is of the same noise.
    """

    selectors: ClassVar[Mapping[str, type[Selector]]] = SELECTORS
    share: Tensor

    def __init__(self, basis: Basis, selector: str = "light") -> None:
        super().__init__()
        self.kind = selector
        self.space = ImmuneSpace(basis)
        count = self.space.count
        chosen = self.selectors[selector](count)
        self.selector = chosen
        self.evidence = nn.Parameter(torch.zeros(count))
        self.suspicion = nn.Linear(chosen.code_size, 1)
        self.register_buffer("share", torch.ones(()))
        # Start from keeping nearly everything: an all-open mask is the plain fixed projection.
        nn.init.constant_(chosen.logits.bias, 2.0)

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 3, 112, 112] RGB in [0, 1] to coefficients and p, both [N, K], and a logit [N].

        The last is the suspicion that the image was attacked.
        """
        return self.sense(x)[:3]

    def sense(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What ``forward`` gives, and the selector's code [N, C]."""
        coefficients = self.space.encode(x)
        code, logits = self.analyse(x)
        energy = coefficients.square() / self.space.eigenvalues
        probability = torch.sigmoid(logits + self.evidence * torch.log(energy + 1e-3))
        return coefficients, probability, self.suspicion(code).squeeze(1), code

    def analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 112, 112] to the selector's code [N, C] and its part of the logits [N, K]."""
        code, logits = self.selector(x)
        return code, logits

    forward = choose

    def take_off(self, share: float) -> None:
        """Sets ``share``.

        Raises:
            OptionError: there is no such share, as ``check_share`` says.
        """
        check_share(share)
        self.share.fill_(share)

    def keep(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """[N, 3, 112, 112] RGB in [0, 1], less the share of what these coefficients [N, K] lack."""
        fitting = self.space.decode(coefficients)
        return (self.share * fitting + (1 - self.share) * x).clamp(0, 1)

    def restore(
        self, x: Tensor, antibody: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[N, 3, 112, 112] RGB in [0, 1] to the same, purified, and what ``choose`` gives.

        Args:
            x: the images.
            antibody: p to how much of each eigenface is kept.
        """
        coefficients, probability, suspicion = self.choose(x)
        purified = self.keep(x, antibody(probability) * coefficients)
        return purified, coefficients, probability, suspicion

    def purify(self, x: Tensor) -> Tensor:
        """What is left under the mean of the sampled mask, as it ships."""
        return self.restore(x, mean_mask)[0]


def check_share(share: float) -> None:
    """Refuses a share that a projection cannot take off.

    Raises:
        OptionError: it is not above 0 and at most 2.
    """
    if not 0 < share <= MOST_SHARE:
        raise OptionError(f"expected a share above 0 and at most {MOST_SHARE:g}, got {share}")


def mean_mask(probability: Tensor) -> Tensor:
    """The antibody that ships: the mean of the sampled mask is p itself."""
    return probability


def sparsity_weight(eigenvalues: Tensor, rank: int) -> Tensor:
    """Lambda: the price of an active eigenface, as the eigenvalue at ``rank`` (from 1).

    An eigenface whose coefficients vary by less than that is not worth keeping for the
    reconstruction alone. The published 0.015 lies far above: beside a mean over D pixels it would
    prune almost everything.

    Raises:
        OptionError: there are fewer eigenfaces.

    >>> import torch
    >>> float(sparsity_weight(torch.tensor([4.0, 2.0, 1.0]), 2))
    2.0
    """
    if not 1 <= rank <= len(eigenvalues):
        raise OptionError(f"expected a sparsity rank of 1 to {len(eigenvalues)}, got {rank}")
    return eigenvalues.sort(descending=True).values[rank - 1]


def expected_loss(
    probability: Tensor, clean: Tensor, noisy: Tensor, price: Tensor, harm: float = 1.0
) -> Tensor:
    """PIN's loss in expectation over the masks, exactly, for each image: [..., N].

    With orthonormal eigenfaces the reconstruction is separable, so that under independent
    Bernoulli(p) the expectation is sum_i p_i (h e_i^2 + lambda) + (1 - p_i) c_i^2, and its
    gradient needs no sampling. Times D against the published mean over pixels. Published is h = 1:
    but what an attacker adds hurts a recognizer far more than as much detail that goes missing.

    Args:
        probability: p, [..., N, K].
        clean: c, coefficients of the clean image, [N, K].
        noisy: c + e, coefficients of the noisy one, [N, K].
        price: lambda, a scalar.
        harm: h, how much worse the energy of noise is than lost energy.

    >>> import torch
    >>> one = torch.ones(1, 2)
    >>> expected_loss(one, clean=one, noisy=one + 0.5, price=torch.tensor(0.25), harm=2).tolist()
    [1.5]
    """
    kept, dropped = harm * (noisy - clean).square() + price, clean.square()
    return (probability * kept + (1 - probability) * dropped).sum(dim=-1)


def policy_gradient_loss(
    probability: Tensor,
    clean: Tensor,
    noisy: Tensor,
    price: Tensor,
    harm: float,
    masks: int,
    generator: torch.Generator,
) -> Tensor:
    """A surrogate [N] whose gradient is the published REINFORCE estimate of the same loss.

    ``masks`` masks are drawn for each image; their batch mean is the baseline. Arguments and
    scale as for ``expected_loss``.
    """
    shape = (masks, *probability.shape)
    uniform = torch.rand(shape, generator=generator, device=probability.device)
    mask = (probability.detach() > uniform).float()
    with torch.no_grad():
        loss = expected_loss(mask, clean, noisy, price, harm)
        advantage = loss - loss.mean()
    p = probability.clamp(1e-6, 1 - 1e-6)
    log_likelihood = (mask * p.log() + (1 - mask) * (1 - p).log()).sum(dim=2)
    return (advantage * log_likelihood).mean(dim=0)
