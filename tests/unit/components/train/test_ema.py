"""The moving average of the weights, worked by hand, and what becomes of the buffers of batch normalisation."""

import pytest
import torch
from torch import nn

from components.train.ema import Ema


def set_to(network: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(value)
    return network


def weights(ema: Ema) -> dict[str, float]:
    return {name: tensor.flatten()[0].item() for name, tensor in ema.network.state_dict().items()}


def test_the_average_of_the_first_steps_worked_by_hand():
    """Decay 2/11 after one update and 3/12 after two: both below 0.9."""
    network = set_to(nn.Linear(1, 1), 0)
    ema = Ema(network, 0.9)
    ema.update(set_to(network, 11))
    assert weights(ema)["weight"] == pytest.approx(9)  # 2/11 * 0 + 9/11 * 11
    ema.update(set_to(network, 1))
    assert weights(ema)["weight"] == pytest.approx(3)  # 1/4 * 9 + 3/4 * 1


def test_after_many_steps_the_decay_is_the_one_that_was_set():
    """(1 + n) / (10 + n) reaches 0.5 with n = 8."""
    network = set_to(nn.Linear(1, 1), 0)
    ema = Ema(network, 0.5)
    for _ in range(20):
        ema.update(network)
    ema.update(set_to(network, 1))
    assert weights(ema)["weight"] == pytest.approx(0.5)


def test_running_statistics_are_averaged_and_counters_copied():
    network = set_to(nn.BatchNorm2d(3), 0)
    ema = Ema(network, 0.9)
    ema.update(set_to(network, 11))
    assert weights(ema) == {
        "weight": pytest.approx(9), "bias": pytest.approx(9), "running_mean": pytest.approx(9),
        "running_var": pytest.approx(9), "num_batches_tracked": 11,
    }  # fmt: skip


def test_the_network_that_learns_is_left_as_it_is():
    network = set_to(nn.BatchNorm2d(3), 1)
    ema = Ema(network, 0.9)
    ema.update(set_to(network, 2))
    assert all((tensor == 2).all() for tensor in network.state_dict().values())
    assert all(p.requires_grad for p in network.parameters()) and network.training
    assert not any(p.requires_grad for p in ema.network.parameters()) and not ema.network.training


def test_an_average_that_comes_from_a_checkpoint_goes_on_as_it_would_have():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    whole = Ema(network, 0.99)
    again = None
    for step in range(30):
        if step == 12:
            again = Ema(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), 0.99)
            again.load_state_dict(whole.state_dict())
        network(torch.randn(4, 1, 5, 5))
        with torch.no_grad():
            network[0].weight.add_(torch.randn_like(network[0].weight))
        for ema in filter(None, (whole, again)):
            ema.update(network)
    ours, theirs = whole.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
