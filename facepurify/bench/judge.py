"""From embeddings to the rows of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facepurify.bench import metrics
from facepurify.bench.attacks import Goal, Norm
from facepurify.bench.pairs import Pairs
from facepurify.bench.results import ROC_RATES, AttackRow, CheckResult, CleanRow, Outcome
from facepurify.bench.steps import Seen

__all__ = ["FAR", "STRICT_FAR", "Attacked", "Judge", "View"]

FAR, STRICT_FAR = 1e-2, 1e-3

_Floats = NDArray[np.float32]
_Indices = NDArray[np.int64]


class View(NamedTuple):
    """All M faces as a recognizer sees them with a defence in front of it.

    Attributes:
        plain: Unit embeddings without the defence, [M, d].
        probe: Those of the faces as probes, [M, d].
        gallery: Those of the faces in the gallery, [M, d].
        suspicion: The defence's score of the probes, [M]; None where it gives none.
    """

    plain: _Floats
    probe: _Floats
    gallery: _Floats
    suspicion: _Floats | None

    def scores(self, pairs: _Indices) -> NDArray[np.float64]:
        """Return the cosines [N] of pairs [N, 2]."""
        return metrics.cosine(self.probe[pairs[:, 0]], self.gallery[pairs[:, 1]])


class Attacked(NamedTuple):
    """The attacked probes of some pairs.

    Attributes:
        pairs: Indices of the faces, [N, 2].
        seen: What became of their attacked probes.
        distance: Median smallest change that succeeds, in grey levels; None if not measured.
        clean: The defence's score of the same probes without an attack, [N], where they arrived
            otherwise than those of the view; None where they did not, or there is no score.
    """

    pairs: _Indices
    seen: Seen
    distance: float | None = None
    clean: _Floats | None = None


@dataclass(frozen=True)
class Judge:
    """One defence in front of one recognizer.

    Attributes:
        recognizer: Its name.
        defence: Its name.
        pairs: All pairs.
        view: All faces.
        threshold: At FAR 1 % without the defence.
    """

    recognizer: str
    defence: str
    pairs: Pairs
    view: View
    threshold: float

    @property
    def recalibrated(self) -> float:
        """The threshold at FAR 1 % with the defence."""
        return metrics.threshold_at_far(self.view.scores(self.pairs.impostor), FAR)

    def clean_row(self, psnr: float | None, ssim: float) -> CleanRow:
        """Return what the defence costs on clean pairs, given how it changes clean faces."""
        pairs = self.pairs
        genuine, impostor = self.view.scores(pairs.genuine), self.view.scores(pairs.impostor)
        accuracy, deviation = metrics.ten_fold_accuracy(
            genuine, impostor, pairs.genuine_folds, pairs.impostor_folds
        )
        probes = np.unique(np.concatenate([pairs.genuine[:, 0], pairs.impostor[:, 0]]))
        return CleanRow(
            recognizer=self.recognizer,
            defence=self.defence,
            accuracy=accuracy,
            accuracy_deviation=deviation,
            tar_at_far_1e2=metrics.tar_at_far(genuine, impostor, FAR),
            tar_at_far_1e3=metrics.tar_at_far(genuine, impostor, STRICT_FAR),
            frr=metrics.frr(genuine, self.threshold),
            far=metrics.far(impostor, self.threshold),
            recalibrated_threshold=self.recalibrated,
            recalibrated_frr=metrics.frr(genuine, self.recalibrated),
            recalibrated_far=metrics.far(impostor, self.recalibrated),
            shift=_shift(self.view.probe[probes], self.view.plain[probes]),
            psnr=psnr,
            ssim=ssim,
            roc=tuple(metrics.roc_curve(genuine, impostor, ROC_RATES).tolist()),
        )

    def attack_row(
        self,
        attacker: str,
        attack: str,
        norm: Norm,
        eps: float,
        attacked: Mapping[Goal, Attacked],
        *,
        surrogate: str | None = None,
        checks: Sequence[CheckResult] = (),
    ) -> AttackRow:
        """Return what an attack did to the pairs it was made for."""
        scores = {
            "dodging": self.view.scores(self.pairs.genuine),
            "impersonation": self.view.scores(self.pairs.impostor),
        }
        outcomes = {}
        for goal, (pairs, seen, distance, _) in attacked.items():
            scores[goal] = metrics.cosine(seen.embeddings, self.view.gallery[pairs[:, 1]])
            outcomes[goal] = Outcome(
                fixed=metrics.attack_success(scores[goal], self.threshold, goal),
                recalibrated=metrics.attack_success(scores[goal], self.recalibrated, goal),
                shift=_shift(seen.embeddings, self.view.plain[pairs[:, 0]]),
                distance=distance,
            )
        roc = metrics.roc_curve(scores["dodging"], scores["impersonation"], ROC_RATES)
        return AttackRow(
            recognizer=self.recognizer,
            defence=self.defence,
            attacker=attacker,
            attack=attack,
            surrogate=surrogate,
            norm=norm,
            eps=eps,
            dodging=outcomes.get("dodging"),
            impersonation=outcomes.get("impersonation"),
            auroc=self._auroc(list(attacked.values())),
            roc=tuple(roc.tolist()),
            checks=tuple(checks),
        )

    def _auroc(self, attacked: Sequence[Attacked]) -> float | None:
        """Tell attacked from clean probes of the same pairs by the suspicion score."""
        if self.view.suspicion is None:
            return None
        clean = [
            self.view.suspicion[part.pairs[:, 0]] if part.clean is None else part.clean
            for part in attacked
        ]
        suspicion = [part.seen.suspicion for part in attacked if part.seen.suspicion is not None]
        return metrics.auroc(np.concatenate(suspicion), np.concatenate(clean))


def _shift(embeddings: _Floats, clean: _Floats) -> float:
    return float(np.mean(1 - metrics.cosine(embeddings, clean)))
