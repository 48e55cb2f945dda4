"""One cycle of the learning rate, and losses that are no numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facepurify.errors import DataError, OptionError
from facepurify.train.optimiser import Optimiser, one_cycle


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_does_not_reach_the_weights(loss: float) -> None:
    net = nn.Linear(2, 1)
    before = net.weight.detach().clone()
    optimiser = Optimiser(net.parameters(), 0.1, 4)
    with pytest.raises(DataError, match="expected a finite loss"):
        optimiser.step(loss * net.weight.sum())
    assert torch.equal(net.weight, before)
    optimiser.step(net.weight.square().sum())
    assert not torch.equal(net.weight, before)


@pytest.mark.parametrize("steps", [1, 2, 10, 20])
@pytest.mark.parametrize("rise", [0.05, 0.1])
def test_any_number_of_steps(steps: int, rise: float) -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), 1.0)
    schedule = one_cycle(optimizer, 1.0, steps, rise, cycle_momentum=False)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert max(rates) <= 1
    assert steps < 10 or max(rates) > 0.9
    assert steps < 10 or rates[-1] < 0.05


@pytest.mark.parametrize(("rate", "steps"), [(0.1, 0), (0.0, 4), (-1.0, 4), (float("nan"), 4)])
def test_a_schedule_of_nothing_is_refused(rate: float, steps: int) -> None:
    with pytest.raises(OptionError, match="steps of 1 or more and a rate above 0"):
        Optimiser(nn.Linear(2, 1).parameters(), rate, steps)
