"""Attacks made within a step: who is whose victim."""

from __future__ import annotations

import pytest
import torch

from facepurify.train import fresh
from facepurify.train.fresh import attack_now


@pytest.mark.parametrize("count", [1, 2, 5])
def test_nobody_is_his_own_victim(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Attack:
        def __call__(
            self, embed: object, clean: torch.Tensor, anchor: torch.Tensor, goal: str, *_: object,
            **__: object,
        ) -> torch.Tensor:  # fmt: skip
            seen.append((goal, anchor))
            return clean

    monkeypatch.setattr(fresh, "FGSM", Attack)
    own = torch.eye(5)[:count]
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        attack_now(lambda x: x, torch.zeros(count, 3, 2, 2), own, generator, steps=1)
    victims = [anchor for goal, anchor in seen if goal == "impersonation"]
    assert len(seen) == 60
    assert (len(victims) > 10) == (count > 1)
    for anchor in victims:
        assert float((anchor * own).sum()) == 0
        assert torch.equal(anchor.sum(0), own.sum(0))  # each is the victim of one
