"""Attacks made within a step: who is whose victim, and what a search is taken to end at."""

from __future__ import annotations

import pytest
import torch

from facepurify.train import fresh
from facepurify.train.delivery import as_file
from facepurify.train.fresh import attack_now, search
from tests.bench.small_nets import RandomNet, random_images


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


def test_a_search_ends_at_noise_of_blocks_that_moves_what_it_goes_through() -> None:
    embed, clean = RandomNet(), as_file(0.1 + 0.8 * random_images(6))  # nothing is cut off
    own = embed(clean)
    moved, strengths, flat = [], set(), []
    for seed in range(8):
        found = search(embed, clean, own, torch.Generator().manual_seed(seed))
        again = search(embed, clean, own, torch.Generator().manual_seed(seed))
        assert torch.equal(found, again)
        noise = 255 * (found - clean)
        assert torch.allclose(noise, noise.round(), atol=1e-3)
        strengths |= {round(float(each)) for each in noise.abs().flatten(1).amax(dim=1)}
        flat.append(float((noise.diff(dim=3).abs() < 0.5).float().mean()))
        moved.append(float(1 - (embed(found) * own).sum(dim=1).mean()))
    assert strengths <= {2, 3, 4, 6, 8, 10, 12}
    assert len(strengths) > 3
    assert min(flat) > 0.3  # of a gradient's own signs, next to no neighbours are alike
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).sign()
    drawn = embed((clean + 12 / 255 * noise).clamp(0, 1))
    assert sum(moved) / len(moved) > 2 * float(1 - (drawn * own).sum(dim=1).mean())


def test_somebody_alone_can_only_dodge_a_search() -> None:
    embed, clean = RandomNet(), random_images(1)
    own = embed(clean)
    for seed in range(4):
        found = search(embed, clean, own, torch.Generator().manual_seed(seed))
        assert not torch.equal(found, clean)
