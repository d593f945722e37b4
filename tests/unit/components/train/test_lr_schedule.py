"""The learning rate: where it stands at each batch, worked by hand, and after a training that was stopped."""

import math

import pytest
import torch

from components.core.settings import Settings
from components.train.lr_schedule import FALLING, PLATEAU_FACTOR, PLATEAU_PATIENCE, Schedule, share_of_rate

BATCHES = 200
"""Six of them warm up; 194 fall, and the 97th of these, batch 103, is half-way."""


def optimizer(rate: float = 0.01) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    return torch.optim.Adam(groups, lr=rate)


@pytest.mark.parametrize("kind", FALLING)
def test_a_falling_rate_rises_in_equal_steps_over_three_percent_of_the_batches(kind):
    assert [share_of_rate(kind, batch, BATCHES) for batch in range(7)] == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1]
    )


@pytest.mark.parametrize(("kind", "half_way", "last"), [
    ("cosine", 0.5, (1 - math.cos(math.pi / 194)) / 2),
    ("poly", 0.5**0.9, (1 / 194) ** 0.9),
])  # fmt: skip
def test_half_way_and_at_the_last_batch(kind, half_way, last):
    assert share_of_rate(kind, 103, BATCHES) == pytest.approx(half_way)
    assert share_of_rate(kind, 199, BATCHES) == pytest.approx(last)


@pytest.mark.parametrize("kind", FALLING)
@pytest.mark.parametrize("batches", [1, 2, 33, 34, 1000])
def test_it_is_above_zero_at_every_batch_and_falls_after_the_warm_up(kind, batches):
    shares = [share_of_rate(kind, batch, batches) for batch in range(batches)]
    assert min(shares) > 0 and max(shares) == 1
    falling = shares[math.ceil(0.03 * batches) :]
    assert falling == sorted(falling, reverse=True)


def test_every_group_of_parameters_has_the_rate_of_the_batch_over_all_epochs():
    given = optimizer(0.01)
    schedule = Schedule(given, "cosine", epochs=10, batches_per_epoch=20)
    schedule.before_batch(6, 3)  # batch 103
    assert [group["lr"] for group in given.param_groups] == pytest.approx([0.005, 0.005])
    assert schedule.rate == pytest.approx(0.005)


def test_a_falling_rate_does_not_ask_for_the_validation_loss():
    schedule = Schedule(optimizer(), "poly", 10, 20)
    schedule.before_batch(1, 10)
    before = schedule.rate
    for _ in range(3 * PLATEAU_PATIENCE):
        schedule.after_epoch(1.0)
    assert schedule.rate == before


def test_a_training_that_goes_on_has_the_rate_that_it_would_have_had():
    whole, first = (Schedule(optimizer(), "cosine", 10, 20) for _ in range(2))
    first.before_batch(4, 12)
    saved = first.optimizer.state_dict(), first.state_dict()
    again = Schedule(optimizer(), "cosine", 10, 20)
    again.optimizer.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    for schedule in (whole, again):
        schedule.before_batch(4, 13)
    assert again.rate == whole.rate


def test_on_a_plateau_the_rate_halves_after_the_sixth_epoch_without_a_lower_loss_wherever_it_was_stopped():
    schedule = Schedule(optimizer(0.01), "plateau", 10, 20)
    rates = []
    for epoch in range(1, 9):
        schedule.before_batch(epoch, 0)
        rates.append(schedule.rate)
        schedule.after_epoch(1.0)
        saved, state = schedule.optimizer.state_dict(), schedule.state_dict()
        schedule = Schedule(optimizer(0.01), "plateau", 10, 20)
        schedule.optimizer.load_state_dict(saved)
        schedule.load_state_dict(state)
    assert rates == pytest.approx([0.01] * 7 + [0.01 * PLATEAU_FACTOR])


def test_every_schedule_that_can_be_asked_for_is_there():
    assert {"plateau", *FALLING} == set(Settings.model_fields["schedule"].annotation.__args__)
