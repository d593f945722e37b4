"""What one of two processes does in test_ranks.py: a step on its half of each batch. The second writes its results."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from components.model.losses import LOSSES
from components.train import ranks


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_BCHW = 5 + torch.randn(size, 3, 8, 8, generator=generator)
    return x_BCHW, (torch.rand(size, 1, 8, 8, generator=generator) > 0.8).float()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 3))


def step(size: int, name: str) -> dict:
    """Learn from our share of a batch of this size with this loss."""
    ours = ranks.synchronized(network())
    x_BCHW, y_B1HW = (t[ranks.rank() :: ranks.count()] for t in batch(size))
    learner = ranks.parallel(ours)
    loss = LOSSES[name](learner(x_BCHW), y_B1HW, ranks.total)
    loss.backward()
    items = ranks.of_all([i * 10 for i in range(7)][ranks.rank() :: ranks.count()])
    told = ranks.of_first(lambda: f"from {ranks.rank()}")
    grads = {name: p.grad for name, p in ours.named_parameters()}
    return {"loss": loss.detach(), "grads": grads, "state": ours.state_dict(), "items": items, "told": told}


def main(shares: list[tuple[int, str]], folder: Path) -> None:
    with ranks.joined():
        for size, name in shares:
            out = step(size, name)
            if ranks.rank() == 1:  # the second one, so that what it has cannot be the first one's own
                torch.save(out, folder / f"{size} {name}.pt")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
