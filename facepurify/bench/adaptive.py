"""The attacker who knows the defence, and the checks that tell whether he did his best.

He attacks through the defence: by its exact gradient, or BPDA where it has none (Athalye et al.,
arXiv 1802.00420), averaging over the draws of a random one (EOT), with several attacks and
restarts. Per image, the strongest counts. He may hide from the defence's score on the way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from facepurify.bench.attacks import APGD, FGSM, PGD, Attack, Embed, Goal, Norm, succeeds
from facepurify.bench.attacks.base import Best, Problem
from facepurify.bench.defences import Defence
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import AttackError

__all__ = ["AdaptiveAttack", "Check", "Scene", "defended", "self_checks"]

BATCH = 64
UNBOUNDED = 255.0
STEPS = (1, 10, 40)
SLACK = 0.01
MARGIN = 0.5


def defended(
    recognizer: Recognizer, defence: Defence, *, draws: int = 1, generator: torch.Generator
) -> Embed:
    """The pipeline that an adaptive attacker differentiates: defence, then recognizer.

    Args:
        recognizer: what the defence protects.
        defence: what stands before it.
        draws: of a random defence, averaged (EOT); the mean of unit embeddings has the mean
            cosine to any anchor. A defence that is not random is asked once.
        generator: chooses the draws, anew in each call.
    """

    def embed(x: Tensor) -> Tensor:
        seeds = _seeds(generator, draws) if defence.random else [0]
        seen = [recognizer.embed(defence.differentiable(x, seed)) for seed in seeds]
        return torch.stack(seen).mean(0)

    return embed


def _seeds(generator: torch.Generator, count: int) -> list[int]:
    draw = torch.randint(2**31, (count,), generator=generator, device=generator.device)
    return [int(seed) for seed in draw]


@dataclass(frozen=True)
class Scene:
    """Who is attacked, and how it is judged.

    Attributes:
        recognizer: what the defence protects.
        defence: what stands before it.
        x: [N, 3, 112, 112] in [0, 1], on the 8-bit grid: the probes.
        anchor: [N, d], unit embeddings of the gallery faces.
        goal: "dodging" or "impersonation".
    """

    recognizer: Recognizer
    defence: Defence
    x: Tensor
    anchor: Tensor
    goal: Goal

    def part(self, start: int, stop: int) -> Scene:
        """The same for some of the images."""
        window = slice(start, stop)
        return Scene(self.recognizer, self.defence, self.x[window], self.anchor[window], self.goal)

    def cosine(self, images: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """The verifier's cosine [N] for attacked images, as judged: by ONNX Runtime.

        Averaged over ``seeds`` where the defence is random.
        """
        array = images.cpu().contiguous().numpy()
        seen = [
            self.recognizer.embed_numpy(self.defence.purify(array, seed))
            for seed in (seeds if self.defence.random else seeds[:1])
        ]
        mean = torch.from_numpy(np.mean(seen, axis=0)).to(self.anchor)
        return (mean * self.anchor).sum(1)

    def success(self, images: Tensor, threshold: float, seeds: Sequence[int] = (0,)) -> float:
        """The share of attacked images that fool the verifier, on average over draws."""
        draws = seeds if self.defence.random else seeds[:1]
        fooled = [
            succeeds(self.cosine(images, [seed]), self.goal, threshold).float().mean()
            for seed in draws
        ]
        return float(torch.stack(fooled).mean())


@dataclass(frozen=True)
class AdaptiveAttack:
    """Several attacks through the defence, each restarted; per image the strongest counts.

    Attributes:
        attacks: what is run, each by its own random start.
        restarts: how often.
        draws: of a random defence, averaged in every gradient, and in judging which is best.
        hiding: what a unit of the alarm (the logit of the defence's score above its threshold's)
            costs him, in cosines; 0 for one who does not care whether he is found.
    """

    attacks: tuple[Attack, ...] = (FGSM(), PGD(steps=40), APGD(steps=40))
    restarts: int = 1
    draws: int = 20
    hiding: float = 0.0
    name: str = field(default="adaptive", init=False)

    def __post_init__(self) -> None:
        if not self.attacks or self.restarts < 1 or self.draws < 1:
            raise AttackError(
                "expected attacks, restarts >= 1 and draws >= 1, "
                f"got {len(self.attacks)}, {self.restarts} and {self.draws}"
            )
        if not 0 <= self.hiding < math.inf:
            raise AttackError(f"expected hiding >= 0, got {self.hiding}")

    def key(self) -> str:
        """All parameters in a stable string, to cache results under."""
        return repr(self)

    def cost(self, defence: Defence) -> int:
        """Gradient calls for each image."""
        each = sum(attack.cost for attack in self.attacks) * self.restarts
        return each * (self.draws if defence.random else 1)

    def __call__(self, scene: Scene, eps: float, *, generator: torch.Generator) -> Tensor:
        """Attacks the scene's images through its defence.

        Args:
            scene: what is attacked.
            eps: radius in units of 1/255, in the norm of the attacks.
            generator: all randomness.

        Returns:
            [N, 3, 112, 112], for each image the attack that the verifier judges strongest.

        Raises:
            AttackError: as for an attack.
            OptionError: he is to hide from a defence without a score.
        """
        size = max(1, BATCH // self.draws) if scene.defence.random else BATCH
        state = generator.get_state()
        parts = []
        for start in range(0, len(scene.x), size):
            # Every part draws the same, so that results do not depend on how images are split.
            generator.set_state(state)
            parts.append(self._strongest(scene.part(start, start + size), eps, generator))
        return torch.cat(parts)

    def _strongest(self, scene: Scene, eps: float, generator: torch.Generator) -> Tensor:
        judging = _seeds(generator, self.draws)
        embed = defended(scene.recognizer, scene.defence, draws=self.draws, generator=generator)
        anchor = scene.anchor
        if self.hiding:
            embed, anchor = self._hidden(embed, scene)
        best = Best(scene.x, torch.full_like(scene.x[:, 0, 0, 0], -torch.inf))
        for _ in range(self.restarts):
            for attack in self.attacks:
                images = attack(embed, scene.x, anchor, scene.goal, eps, generator=generator)
                cosine = scene.cosine(images, judging)
                value = -cosine if scene.goal == "dodging" else cosine
                if self.hiding:
                    with torch.no_grad():
                        value = value - self._price(scene, images)
                best.update(images, value)
        return best.levels

    def _price(self, scene: Scene, x: Tensor) -> Tensor:
        """What being found costs him, [N]. He stays a margin below the threshold."""
        return self.hiding * (scene.defence.alarm(x) + MARGIN).clamp_min(0)

    def _hidden(self, embed: Embed, scene: Scene) -> tuple[Embed, Tensor]:
        """The pipeline and its anchors with one more entry: the product takes the price off."""
        sign = 1 if scene.goal == "dodging" else -1

        def priced(x: Tensor) -> Tensor:
            return torch.cat([embed(x), sign * self._price(scene, x)[:, None]], dim=1)

        return priced, nn.functional.pad(scene.anchor, (0, 1), value=1)


@dataclass(frozen=True)
class Check:
    """One sign that an attack works as it should (Carlini et al., arXiv 1902.06705).

    Attributes:
        name: what was checked.
        passed: whether it holds.
        detail: the figures.
    """

    name: str
    passed: bool
    detail: str


def self_checks(
    scene: Scene,
    eps: float,
    *,
    threshold: float,
    white_box: Tensor,
    black_box: Sequence[Tensor] = (),
    norm: Norm = "linf",
    draws: int = 8,
    generator: torch.Generator,
) -> list[Check]:
    """Checks an adaptive attack for the signs of a gradient that is masked.

    Args:
        scene: what was attacked; a few images are enough.
        eps: the budget of the attack.
        threshold: the verifier's, on the cosine.
        white_box: the adaptive attack's own images, none of the black box's among them.
        black_box: images of attacks that know less, such as Square's and transferred ones.
        norm: in which ``eps`` is measured.
        draws: of a random defence.
        generator: all randomness.

    Returns:
        More steps are not worse; no black box beats the white box (by more than one image);
        an unbounded attack always succeeds; no image is without a gradient.
    """
    seeds = _seeds(generator, draws)
    embed = defended(scene.recognizer, scene.defence, draws=draws, generator=generator)
    state = generator.get_state()

    def attacked(steps: int, radius: float) -> Tensor:
        generator.set_state(state)
        attack = PGD(norm, steps=steps)
        return attack(embed, scene.x, scene.anchor, scene.goal, radius, generator=generator)

    unbounded = UNBOUNDED * (1 if norm == "linf" else math.sqrt(scene.x[:1].numel()))
    by_steps = {steps: float(scene.cosine(attacked(steps, eps), seeds).mean()) for steps in STEPS}
    return [
        _check_steps(by_steps, scene.goal),
        _check_black_box(
            scene.success(white_box, threshold, seeds),
            [scene.success(images, threshold, seeds) for images in black_box],
            tolerance=1 / max(len(scene.x), 1),
        ),
        _check_unbounded(
            unbounded, scene.success(attacked(STEPS[-1], unbounded), threshold, seeds)
        ),
        _check_gradient(scene, embed, generator),
    ]


def _check_steps(by_steps: dict[int, float], goal: Goal) -> Check:
    sign = -1 if goal == "dodging" else 1
    values = [sign * cosine for cosine in by_steps.values()]
    passed = all(more >= less - SLACK for less, more in itertools.pairwise(values))
    detail = ", ".join(f"{cosine:.3f} in {steps}" for steps, cosine in by_steps.items())
    return Check("more steps are not worse", passed, f"mean cosine by PGD steps: {detail}")


def _check_black_box(white: float, black: list[float], tolerance: float) -> Check:
    passed = all(share <= white + tolerance for share in black)
    shares = ", ".join(f"{share:.1%}" for share in black) or "none run"
    detail = f"white box {white:.1%}, black box {shares}"
    return Check("no black box beats the white box", passed, detail)


def _check_unbounded(eps: float, success: float) -> Check:
    detail = f"{success:.1%} with eps {eps:g}"
    return Check("an unbounded attack always succeeds", success == 1, detail)


def _check_gradient(scene: Scene, embed: Embed, generator: torch.Generator) -> Check:
    eps = torch.ones_like(scene.x[:, :1, :1, :1])
    levels = (scene.x * 255).round()
    problem = Problem(embed, levels, scene.anchor, scene.goal, eps, "linf", generator)
    _, gradient = problem.value_and_gradient(levels)
    zero = (gradient == 0).flatten(1).float().mean(1)
    dead = int((zero == 1).sum())
    detail = f"{dead} of {len(zero)} images without a gradient, {zero.mean():.1%} of pixels"
    return Check("the gradient does not vanish", dead == 0, detail)
