"""Attacks made within a step: who is whose victim, and noise that loses its colour."""

from __future__ import annotations

import pytest
import torch

from facepurify.train import fresh
from facepurify.train.fresh import attack_now, discolour_some


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


def test_noise_without_colour_by_hand() -> None:
    clean = torch.full((3, 3, 1, 2), 0.5)
    clean[:, :, :, 1] = 1.0
    noise = torch.tensor([[8.0, 8, -8], [-2, -2, -2], [4, -1, -1]])[:, :, None, None] / 255
    attacked = clean + noise.expand(3, 3, 1, 2)
    attacked[:, :, :, 1] = 1.0  # where the attack did nothing, nothing is done
    levels = 255 * (discolour_some(clean, attacked, 1.0, torch.Generator()) - clean)
    assert levels[:, :, 0, 1].abs().max() == 0
    wanted = torch.tensor([8.0, -2, 2])[:, None].expand(3, 3)
    # 0.5 is no level of an 8-bit file, which is what comes.
    assert float((levels[:, :, 0, 0] - wanted).abs().max()) <= 0.5 + 1e-4


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_attacks_loses_its_colour(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.full((200, 3, 8, 8), 128 / 255)
    signs = torch.randint(2, clean.shape, generator=generator) * 2.0 - 1
    attacked = clean + 8 / 255 * signs
    seen = discolour_some(clean, attacked, share, generator)
    grey = (seen == seen[:, :1]).flatten(1).all(dim=1)
    assert float(grey.float().mean()) == pytest.approx(share, abs=0.1)
    assert torch.equal(seen[~grey], attacked[~grey])
    moved = 255 * (seen - clean).abs()
    assert torch.allclose(moved, torch.full_like(moved, 8.0), atol=1e-3)
