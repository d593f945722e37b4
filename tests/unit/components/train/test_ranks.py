"""Two processes that share a batch do what one does with the whole of it: real processes, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.model.losses import LOSSES
from components.train import ranks
from pipelines.image_tags import ROOT
from tests.unit.components.train.half_a_batch import batch, network

SCRIPT = Path(__file__).with_name("half_a_batch.py")
SIZES = (6, 5, 1)
"""Even shares, uneven ones, and one where the second process gets nothing."""
SHARES = [
    *((size, "dice+bce") for size in SIZES), (5, "focal_tversky"), (5, "slice_dice+bce"), (1, "slice_dice+bce")
]  # fmt: skip
"""The size of the batch, and the loss."""


@pytest.fixture(scope="module", params=SHARES, ids=str)
def shares(request) -> tuple[int, str]:
    return request.param


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> Path:
    """A folder with what the second of two processes has after each step."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([*command, json.dumps(SHARES), str(folder)], env=environment, check=True)
    return folder


@pytest.fixture(scope="module")
def shared(shares, steps) -> dict:
    size, name = shares
    return torch.load(steps / f"{size} {name}.pt", weights_only=True)


@pytest.fixture(scope="module")
def alone(shares) -> dict:
    """The same by torch's own BatchNorm2d and autograd, on the whole batch in this process."""
    size, name = shares
    whole, (x_BCHW, y_B1HW) = network(), batch(size)
    loss = LOSSES[name](whole(x_BCHW), y_B1HW)
    loss.backward()
    grads = {name: p.grad for name, p in whole.named_parameters()}
    return {"loss": loss.detach(), "grads": grads, "state": whole.state_dict()}


@pytest.mark.parametrize("what", ["loss", "grads", "state"])
def test_loss_gradients_and_batch_statistics_are_those_of_the_whole_batch(shared, alone, what):
    torch.testing.assert_close(shared[what], alone[what], rtol=1e-4, atol=1e-6)


def test_the_gradients_are_worth_comparing(alone):
    assert alone["grads"]["0.weight"].abs().max() > 1e-3


def test_what_was_dealt_out_comes_back_in_order(shared):
    assert shared["items"] == [0, 10, 20, 30, 40, 50, 60]


def test_what_the_first_made_is_what_all_have(shared):
    assert shared["told"] == "from 0"


def test_alone_nothing_is_changed():
    whole = network()
    assert ranks.synchronized(whole) is ranks.parallel(whole) is whole
    assert type(whole[1]) is torch.nn.BatchNorm2d
    assert (ranks.count(), ranks.rank(), ranks.first()) == (1, 0, True)
    assert ranks.of_all([1, 2]) == [1, 2]
    assert ranks.of_first(lambda: 3) == 3
    tensor = torch.ones(2)
    assert ranks.total(tensor) is tensor


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([("0", "A100")] * 2, "2 x A100"),
        ([("0", "A100"), ("0", "A100"), ("1", "H100"), ("1", "H100")], "node 0: 2 x A100; node 1: 2 x H100"),
        ([("0", "A100"), ("1", "cpu, 8 threads")], "node 0: 1 x A100; node 1: 1 x cpu, 8 threads"),
    ],
)
def test_the_devices_of_every_node_are_named(monkeypatch, found, words):
    def gather(into: list, mine: tuple[str, str]) -> None:
        assert mine == found[0]
        into[:] = found

    monkeypatch.setenv("GROUP_RANK", "0")
    monkeypatch.setattr(ranks, "together", lambda: True)
    monkeypatch.setattr(ranks, "count", lambda: len(found))
    monkeypatch.setattr(ranks.dist, "all_gather_object", gather)
    assert ranks.devices(found[0][1]) == words


def test_alone_a_process_names_its_own_device():
    assert ranks.devices("cpu, 2 threads") == "cpu, 2 threads"
