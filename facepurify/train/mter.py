"""MTER: hardens a recognizer against attacks on its embedding (Zhong & Deng, ICCV 2019).

Margin-based triplet embedding regularisation, arXiv 1909.09481. Each step has two halves: exploit
finds, for a source face, an image whose embedding is next to that of another person's (target);
fix pulls the embedding of that image back to the source's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from facepurify.errors import OptionError
from facepurify.train.arcface import ArcFace
from facepurify.train.faces import FaceSet
from facepurify.train.loop import Loop, Stateful
from facepurify.train.optimiser import check_finite, check_schedule, one_cycle
from facepurify.train.recognizer import augment
from facepurify.train.shares import check_shares

__all__ = ["FIXES", "MterRecipe", "across", "exploit", "harden", "triplet"]

FIXES = ("mter", "adversarial")
Embed = Callable[[Tensor], Tensor]
# A grey level of 255 in the recognizer's units, (pixel - 127.5) / 127.5.
LEVEL = 1 / 127.5


@dataclass(frozen=True)
class MterRecipe:
    """How a recognizer is hardened; the defaults are the published settings.

    Attributes:
        steps: of the optimiser.
        batch: source faces a step; each is the target of another.
        rate: peak learning rate of SGD with momentum 0.9, one cosine down to zero.
        rounds: of the exploitation; 1 is the one-step variant.
        step: length of a round in grey levels (published sigma: 1).
        stop: 1 - cos to the target at which an image is not pushed further.
        fix: "mter", the published triplet; or "adversarial", plain adversarial training: the
            attacked image is one more photo of its source.
        margin: alpha of the triplet.
        weight: of the triplet.
        identity: weight of ArcFace's loss (published: 1), for the faces that have an identity.
        teaching: weight of the cosine distance to the embeddings that a teacher gives the clean
            face, for clean and attacked images alike (published: 0, no teacher). It stands in for
            identities where faces have none.
        settled: keep the statistics of batch norm, so that the network that learns is the one that
            was attacked. Without it a batch that is half attacked makes its own, under which an
            attack reaches less than it will reach of what is deployed (published).
        purified: share of the steps that go through the purifier, where there is one; in the
            others the recognizer stands alone.
    """

    steps: int = 2000
    batch: int = 64
    rate: float = 0.01
    rounds: int = 10
    step: float = 1.0
    stop: float = 0.1
    fix: str = "mter"
    margin: float = 0.2
    weight: float = 1.0
    identity: float = 1.0
    teaching: float = 0.0
    settled: bool = False
    purified: float = 1.0

    def __post_init__(self) -> None:
        check_shares(purified=self.purified)
        if self.fix not in FIXES:
            raise OptionError(f"expected fix {' or '.join(FIXES)}, got {self.fix!r}")
        if self.rounds < 1:
            raise OptionError(f"expected at least one round, got {self.rounds}")


def across(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For each face of a batch another one of another identity, as int64 [N].

    A rotation of the batch; where it meets the same identity, the next face that differs.

    Raises:
        OptionError: all faces of the batch have one identity.

    >>> across(torch.tensor([0, 0, 1]), torch.Generator().manual_seed(0)).tolist()[2] in (0, 1)
    True
    """
    count = len(labels)
    own = torch.arange(count)
    partner = torch.full((count,), -1)
    first = int(torch.randint(1, max(count, 2), (), generator=generator))
    for shift in range(count - 1):
        candidate = (own + 1 + (first + shift - 1) % (count - 1)) % count
        same = (labels == labels[candidate]) & (labels >= 0)
        partner = torch.where((partner < 0) & ~same, candidate, partner)
        if bool((partner >= 0).all()):
            return partner
    raise OptionError("expected faces of at least two identities in a batch, got one")


def exploit(
    embed: Embed, source: Tensor, target: Tensor, *, rounds: int, step: float, stop: float
) -> Tensor:
    """Pushes images towards others' embeddings (section 3.2): sign steps, until they are there.

    Args:
        embed: differentiable, [N, 3, 112, 112] in [-1, 1] to unit embeddings [N, d].
        source: the images.
        target: unit embeddings [N, d] to reach.
        rounds: gradient steps at most.
        step: length of one in grey levels of 255.
        stop: 1 - cos at which an image stays as it is.

    Returns:
        [N, 3, 112, 112] in [-1, 1], within ``rounds * step`` grey levels of ``source``.
    """
    attacked = source.detach().clone()
    for _ in range(rounds):
        attacked.requires_grad_()
        with torch.enable_grad():
            distance = 1 - (embed(attacked) * target).sum(dim=1)
            (gradient,) = torch.autograd.grad(distance.sum(), attacked)
        going = (distance.detach() > stop).view(-1, 1, 1, 1)
        moved = (attacked.detach() - step * LEVEL * gradient.sign()).clamp(-1, 1)
        attacked = torch.where(going, moved, attacked.detach())
    return attacked


def triplet(attacked: Tensor, source: Tensor, target: Tensor, margin: float) -> Tensor:
    """relu(d(x_a, x_s) - d(x_a, x_t) + margin), d Euclidean between unit embeddings; [N]."""
    to_source = (attacked - source).square().sum(dim=1).clamp_min(1e-8).sqrt()
    to_target = (attacked - target).square().sum(dim=1).clamp_min(1e-8).sqrt()
    return nn.functional.relu(to_source - to_target + margin)


def harden(
    net: nn.Module,
    dim: int,
    faces: FaceSet,
    recipe: MterRecipe,
    folder: str | Path,
    *,
    teacher: Tensor | None = None,
    purify: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    resume: bool = False,
    sources: Mapping[str, str] | None = None,
) -> None:
    """Fine-tunes a recognizer in place; the run (checkpoint, log, curve) lies in ``folder``.

    Args:
        net: [N, 3, 112, 112] in [-1, 1] to embeddings [N, dim], not normalised.
        dim: length of an embedding.
        faces: those that are not held out are trained on.
        recipe: how.
        folder: of the run.
        teacher: unit embeddings [len(faces), dim], for ``recipe.teaching``.
        purify: differentiable, [N, 3, 112, 112] in [0, 1] to the same. In ``recipe.purified`` of
            the steps the attack goes through it, and the recognizer learns on purified attacks
            beside raw clean faces: the gallery is not purified, and it is what is aimed at.
        seed: of the run.
        resume: go on with the run in ``folder``.
        sources: what teacher and purifier are, by name, for ``resume`` to hold against.

    Raises:
        OptionError: no steps or no rate; the recipe asks for teaching and there is no teacher, or
            the reverse; or for a share of purified steps, and there is no purifier.
    """
    check_schedule(recipe.rate, recipe.steps)
    if purify is None and recipe.purified != 1:
        raise OptionError("expected a purifier for a share of purified steps, got none")
    if (teacher is None) != (recipe.teaching == 0):
        raise OptionError("expected a teacher if, and only if, teaching has a weight")
    device = next(net.parameters()).device
    labels = torch.from_numpy(faces.labels())
    head = ArcFace(dim, int(labels.max()) + 1).to(device)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        [*net.parameters(), *head.parameters()], lr=recipe.rate, momentum=0.9, weight_decay=5e-4
    )
    schedule = one_cycle(optimizer, recipe.rate, recipe.steps, 0.1, cycle_momentum=False)
    parts: dict[str, Stateful] = {
        "net": net, "head": head, "optimizer": optimizer, "schedule": schedule
    }  # fmt: skip

    def see(blob: Tensor, through: Callable[[Tensor], Tensor] | None) -> Tensor:
        return blob if through is None else through((blob + 1) / 2) * 2 - 1

    def embed(blob: Tensor, through: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return nn.functional.normalize(net(see(blob, through)))

    training = faces.training
    loop = Loop(
        folder, parts, recipe, seed=seed, resume=resume,
        sources={"faces": faces.digest, **(sources or {})},
    )  # fmt: skip
    for _, generator in loop:
        rows = training[torch.randint(len(training), (recipe.batch,), generator=generator).numpy()]
        clean = augment(torch.from_numpy(faces.images[rows]), generator).to(device)
        label = labels[rows]
        partner = across(label, generator).to(device)
        label = label.to(device)
        alone = float(torch.rand((), generator=generator)) >= recipe.purified
        through = None if alone else purify
        # Attacked as it will be deployed, with its running averages.
        net.eval()
        with torch.no_grad():
            goal = embed(clean)[partner]
        attacked = exploit(
            partial(embed, through=through), clean, goal,
            rounds=recipe.rounds, step=recipe.step, stop=recipe.stop,
        )  # fmt: skip
        net.train(not recipe.settled)
        both = nn.functional.normalize(net(torch.cat([clean, see(attacked, through).detach()])))
        of_clean, of_attacked = both.chunk(2)
        if recipe.fix == "mter":
            fix = triplet(of_attacked, of_clean, of_clean[partner], recipe.margin).mean()
            identity = head(of_clean, label)
        else:
            fix = torch.zeros((), device=device)
            identity = head(both, torch.cat([label, label]))
        loss = recipe.weight * fix + recipe.identity * identity
        if teacher is not None:
            wanted = teacher[rows].to(device)
            near = 1 - (both * torch.cat([wanted, wanted])).sum(dim=1).mean()
            loss = loss + recipe.teaching * near
        check_finite(loss)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            values = {
                "triplet": fix,
                "identity": identity,
                "to_source": (of_attacked * of_clean).sum(dim=1).mean(),
                "to_target": (of_attacked * of_clean[partner]).sum(dim=1).mean(),
            }
            if teacher is not None:
                values["clean_to_teacher"] = (of_clean * wanted).sum(dim=1).mean()
        loop.log(**{name: float(value.detach()) for name, value in values.items()})
    net.eval()
