"""The protocol: what is attacked, what is judged, and in which order.

For each recognizer the threshold is set at FAR 1 % on all clean pairs without a purifier, then
kept. The probes of the chosen pairs are attacked; each defence then sees clean and attacked probes,
and what the recognizer makes of them is counted. Five attackers:

- oblivious: knows the recognizer and the gallery, not the defence;
- stored: the same, whose work arrives as a file of another format (JPEG);
- transfer: the same, made on another recognizer;
- query: sees only what comes out of the defended recognizer (Square);
- adaptive: goes through the defence (:mod:`facepurify.bench.adaptive`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facepurify.bench import metrics
from facepurify.bench.adaptive import AdaptiveAttack
from facepurify.bench.attacks import APGD, FGSM, GOALS, PGD, Attack, Goal, Norm
from facepurify.bench.attacks.base import NORMS, check_levels
from facepurify.bench.defences import Defence
from facepurify.bench.judge import FAR, STRICT_FAR, Attacked, Judge, View
from facepurify.bench.pairs import Pairs, attacked_pairs
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.results import (
    ADAPTIVE,
    OBLIVIOUS,
    QUERY,
    STORED,
    TRANSFER,
    AttackRow,
    CleanRow,
    RecognizerInfo,
)
from facepurify.bench.steps import CHECK_PASSES, CHECKED, Faces, Steps, Target, distance_cost
from facepurify.errors import OptionError, SeedError

__all__ = ["Evaluation", "Measured", "Policy", "Protocol"]

QUALITY_FACES = 200
ADAPTIVE_ATTACKS: dict[Norm, tuple[Attack, ...]] = {
    norm: (FGSM(norm), PGD(norm, steps=40), APGD(norm, steps=40)) for norm in NORMS
}
Policy = Literal["probe", "both"]

_Floats = NDArray[np.float32]
_Images = NDArray[np.uint8]
_Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Protocol:
    """What a run does with its pairs.

    Attributes:
        attacks: Made on the undefended recognizer: the oblivious and the transfer rows.
        eps: Budgets of attacks in L-inf: whole grey levels, 1 to 255.
        eps_l2: Budgets of attacks in L2: length of the whole image's change, in grey levels.
        query: The black-box attack on the defended recognizer.
        limit: Attacked pairs of each kind.
        adaptive_limit: Pairs of each kind, the first of those, for the query and adaptive rows.
        policy: "probe": the defence sees the probe only; "both": the gallery too.
        seed: Chooses the pairs, and all randomness of the attacks.
        storage: What an oblivious attacker's images go through on their way: a baseline such as
            JPEG, which rounds to 8 bits; None for nothing.
        distances: Whether to look for the smallest change that succeeds, too.
        restarts: Of the adaptive attacks; the strongest counts.
        draws: Of a random defence, averaged in every gradient of theirs (EOT).
    """

    attacks: tuple[Attack, ...]
    eps: tuple[float, ...]
    eps_l2: tuple[float, ...]
    query: Attack
    limit: int
    adaptive_limit: int
    policy: Policy
    seed: int
    storage: Defence | None = None
    distances: bool = False
    restarts: int = AdaptiveAttack.restarts
    draws: int = AdaptiveAttack.draws

    def __post_init__(self) -> None:
        if not self.attacks:
            raise OptionError("expected at least one attack, got none")
        for eps in self.eps:
            check_levels(eps)
        if not all(0 < eps < math.inf for eps in self.eps_l2):
            raise OptionError(f"expected an L2 eps > 0, got {self.eps_l2}")
        for name, count in (
            ("limit", self.limit),
            ("adaptive limit", self.adaptive_limit),
            ("number of restarts", self.restarts),
            ("number of draws", self.draws),
        ):
            if count < 1:
                raise OptionError(f"expected a {name} >= 1, got {count}")
        if self.seed < 0:
            raise SeedError(f"expected a seed >= 0, got {self.seed}")

    def budgets(self, norm: Norm) -> tuple[float, ...]:
        """Return the budgets in a norm."""
        return self.eps if norm == "linf" else self.eps_l2

    def adaptive(self, norm: Norm) -> AdaptiveAttack:
        """Return the attack through a defence, in a norm."""
        return AdaptiveAttack(ADAPTIVE_ATTACKS[norm], self.restarts, self.draws)

    def describe(self) -> dict[str, str]:
        """Return the protocol in words, for the report."""
        return {
            "attacks": ", ".join(attack.key() for attack in self.attacks),
            "query attack": self.query.key(),
            "adaptive attack": "; ".join(self.adaptive(norm).key() for norm in self.norms),
            "eps": ", ".join(f"{eps:g}" for eps in self.eps),
            "eps in L2": ", ".join(f"{eps:g}" for eps in self.eps_l2),
            "stored as": "-" if self.storage is None else self.storage.name,
            "limit": str(self.limit),
            "adaptive limit": str(self.adaptive_limit),
            "policy": self.policy,
            "seed": str(self.seed),
        }

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms of the attacks, each once."""
        return tuple(dict.fromkeys(attack.norm for attack in self.attacks))


class Measured(NamedTuple):
    """What an evaluation gives."""

    recognizers: tuple[RecognizerInfo, ...]
    clean: tuple[CleanRow, ...]
    attacked: tuple[AttackRow, ...]


class Evaluation:
    """One run over one set of pairs.

    Args:
        pairs: All pairs: thresholds and clean figures come from all of them.
        protocol: What is attacked, and how.
        steps: Does the work.
        undefended: The defence that changes nothing.
    """

    def __init__(self, pairs: Pairs, protocol: Protocol, steps: Steps, undefended: Defence) -> None:
        self._pairs = pairs
        self._protocol = protocol
        self._steps = steps
        self._undefended = undefended
        self._plain: dict[str, _Floats] = {}
        self._chosen = attacked_pairs(pairs, protocol.limit, protocol.seed)

    def run(self, recognizers: Sequence[Recognizer], defences: Sequence[Defence]) -> Measured:
        """Measure every defence in front of every recognizer."""
        infos: list[RecognizerInfo] = []
        clean: list[CleanRow] = []
        attacked: list[AttackRow] = []
        for recognizer in recognizers:
            plain = self._embed(recognizer)
            impostor = metrics.pair_cosine(plain, self._pairs.impostor)
            info = RecognizerInfo(
                recognizer.name,
                recognizer.sha256,
                recognizer.dim,
                metrics.threshold_at_far(impostor, FAR),
                metrics.threshold_at_far(impostor, STRICT_FAR),
            )
            infos.append(info)
            others = [other for other in recognizers if other is not recognizer]
            for defence in defences:
                self._steps.phase(f"{recognizer.name}, {defence.name}")
                view = self._view(recognizer, defence)
                judge = Judge(recognizer.name, defence.name, self._pairs, view, info.threshold)
                probes = np.unique(self._chosen["dodging"][:, 0])[:QUALITY_FACES]
                quality = self._steps.quality(self._pairs.images[probes], defence)
                clean.append(judge.clean_row(*quality))
                attacked += self._ignorant_rows(judge, recognizer, others, defence)
                attacked += self._informed_rows(judge, recognizer, defence)
        return Measured(tuple(infos), tuple(clean), tuple(attacked))

    def passes(self, recognizers: Sequence[Recognizer], defences: Sequence[Defence]) -> int:
        """Return how many passes of an image through a network :meth:`run` needs, uncached."""
        protocol = self._protocol
        made = judged = 0
        for attack in protocol.attacks:
            images = sum(len(self._chosen[goal]) for goal in attack.goals)
            made += len(protocol.budgets(attack.norm)) * images * attack.cost
            arriving = len(recognizers) + (protocol.storage is not None)
            judged += len(protocol.budgets(attack.norm)) * images * arriving
        if protocol.storage is not None:  # the clean probes are stored, too
            goals = {goal for attack in protocol.attacks for goal in attack.goals}
            judged += sum(len(self._chosen[goal]) for goal in goals)
        informed = sum(len(pairs[: protocol.adaptive_limit]) for pairs in self._chosen.values())
        for norm in protocol.norms:
            black_box = protocol.query.cost if norm == protocol.query.norm else 0
            adaptive = protocol.adaptive(norm)
            for defence in defences:
                each = 1 + adaptive.cost(defence) + black_box + bool(black_box)
                checks = len(GOALS) * min(CHECKED, protocol.adaptive_limit) * CHECK_PASSES
                made += len(protocol.budgets(norm)) * (informed * each + checks)
                if protocol.distances:
                    made += informed * distance_cost(defence, adaptive.draws)
        clean = len(self._pairs.images) + len(defences) * len(self._defended())
        return len(recognizers) * (clean + made + len(defences) * judged)

    def examples(self, recognizer: Recognizer, count: int) -> tuple[_Images, _Images]:
        """Return a few probes of genuine pairs, clean and as the last attack left them."""
        attack = self._protocol.attacks[-1]
        eps = max(self._protocol.budgets(attack.norm))
        faces = self._faces(self._chosen["dodging"], self._embed(recognizer))
        attacked = self._steps.attack(attack, recognizer, faces, "dodging", eps)
        return faces.probes[:count], attacked[:count]

    def _embed(self, recognizer: Recognizer) -> _Floats:
        """Return the embeddings [M, d] of all faces without a defence."""
        if recognizer.sha256 not in self._plain:
            seen = self._steps.see(self._pairs.images, recognizer, self._undefended)
            self._plain[recognizer.sha256] = seen.embeddings
        return self._plain[recognizer.sha256]

    def _defended(self) -> _Indices:
        """Return the faces that the defence sees."""
        pairs = np.concatenate([self._pairs.genuine, self._pairs.impostor])
        return np.unique(pairs if self._protocol.policy == "both" else pairs[:, 0])

    def _view(self, recognizer: Recognizer, defence: Defence) -> View:
        plain = self._embed(recognizer)
        faces = self._defended()
        seen = self._steps.see(self._pairs.images[faces], recognizer, defence)
        purified = plain.copy()
        purified[faces] = seen.embeddings
        suspicion = None
        if seen.suspicion is not None:
            suspicion = np.zeros(len(plain), np.float32)
            suspicion[faces] = seen.suspicion
        gallery = purified if self._protocol.policy == "both" else plain
        return View(plain, purified, gallery, suspicion)

    def _ignorant_rows(
        self, judge: Judge, recognizer: Recognizer, others: Sequence[Recognizer], defence: Defence
    ) -> Iterator[AttackRow]:
        """Yield the rows of attackers that do not know the defence."""
        for attack in self._protocol.attacks:
            for eps in self._protocol.budgets(attack.norm):
                yield self._ignorant_row(judge, recognizer, recognizer, defence, attack, eps)
                if (storage := self._protocol.storage) is not None:
                    yield self._stored_row(judge, recognizer, defence, attack, eps, storage)
                for maker in others:
                    yield self._ignorant_row(judge, recognizer, maker, defence, attack, eps)

    def _ignorant_row(
        self,
        judge: Judge,
        recognizer: Recognizer,
        maker: Recognizer,
        defence: Defence,
        attack: Attack,
        eps: float,
    ) -> AttackRow:
        attacked = {}
        for goal in attack.goals:
            _, images = self._ignorant(attack, maker, goal, eps)
            seen = self._steps.see(images, recognizer, defence)
            attacked[goal] = Attacked(self._chosen[goal], seen)
        own = maker is recognizer
        return judge.attack_row(
            OBLIVIOUS if own else TRANSFER,
            attack.name,
            attack.norm,
            eps,
            attacked,
            surrogate=None if own else maker.name,
        )

    def _stored_row(
        self,
        judge: Judge,
        recognizer: Recognizer,
        defence: Defence,
        attack: Attack,
        eps: float,
        storage: Defence,
    ) -> AttackRow:
        attacked = {}
        for goal in attack.goals:
            before, after = (
                self._steps.see(self._steps.stored(images, storage), recognizer, defence)
                for images in self._ignorant(attack, recognizer, goal, eps)
            )
            attacked[goal] = Attacked(self._chosen[goal], after, clean=before.suspicion)
        return judge.attack_row(
            STORED, f"{attack.name} as {storage.name}", attack.norm, eps, attacked
        )

    def _ignorant(
        self, attack: Attack, maker: Recognizer, goal: Goal, eps: float
    ) -> tuple[_Images, _Images]:
        """Return probes, clean and as an attack on ``maker`` alone leaves them."""
        faces = self._faces(self._chosen[goal], self._embed(maker))
        return faces.probes, self._steps.attack(attack, maker, faces, goal, eps)

    def _informed_rows(
        self, judge: Judge, recognizer: Recognizer, defence: Defence
    ) -> Iterator[AttackRow]:
        """Yield the rows of attackers that ask the defended recognizer, or go through it."""
        for norm in self._protocol.norms:
            attack = self._protocol.adaptive(norm)
            for eps in self._protocol.budgets(norm):
                asked, through, checks = {}, {}, []
                for goal in GOALS:
                    pairs = self._chosen[goal][: self._protocol.adaptive_limit]
                    faces = self._faces(pairs, judge.view.gallery)
                    target = Target(recognizer, defence, faces, goal)
                    rivals = self._oblivious(recognizer, goal, norm, eps)
                    if self._protocol.query.norm == norm:
                        query = self._steps.query(self._protocol.query, target, eps)
                        asked[goal] = Attacked(pairs, self._steps.see(query, recognizer, defence))
                        rivals.append(query)
                    white = self._steps.adaptive(attack, target, eps)
                    worst = self._steps.strongest(target, [white, *rivals], attack.draws)
                    distance = None
                    if self._protocol.distances:
                        distance = self._steps.distance(target, norm, judge.threshold, attack.draws)
                    seen = self._steps.see(worst, recognizer, defence)
                    through[goal] = Attacked(pairs, seen, distance)
                    checks += self._steps.checks(target, norm, eps, judge.threshold, white, rivals)
                if asked:
                    name = self._protocol.query.name
                    yield judge.attack_row(QUERY, name, norm, eps, asked)
                yield judge.attack_row(
                    ADAPTIVE, f"worst of {len(attack.attacks)}", norm, eps, through, checks=checks
                )

    def _oblivious(
        self, recognizer: Recognizer, goal: Goal, norm: Norm, eps: float
    ) -> list[_Images]:
        """Return what the oblivious attacks made of the pairs that the adaptive one works on."""
        pairs = self._chosen[goal]
        faces = self._faces(pairs, self._embed(recognizer))
        return [
            self._steps.attack(attack, recognizer, faces, goal, eps)[
                : self._protocol.adaptive_limit
            ]
            for attack in self._protocol.attacks
            if attack.norm == norm and goal in attack.goals
        ]

    def _faces(self, pairs: _Indices, gallery: _Floats) -> Faces:
        probes, references = pairs.T
        return Faces(self._pairs.images[probes], gallery[references])
