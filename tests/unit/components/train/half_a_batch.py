"""What one of two processes does in test_ranks.py: a step on its half of a batch. The second writes what came of it."""

import sys

import torch
from torch import nn

from components.train import ranks
from components.unet.losses import LOSSES


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_BCHW = 5 + torch.randn(size, 3, 8, 8, generator=generator)
    return x_BCHW, (torch.rand(size, 1, 8, 8, generator=generator) > 0.8).float()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 3))


def main(size: int, name: str, path: str) -> None:
    with ranks.joined():
        ours = ranks.synchronized(network())
        x_BCHW, y_B1HW = (t[ranks.rank() :: ranks.count()] for t in batch(size))
        learner = ranks.parallel(ours)
        loss = LOSSES[name](learner(x_BCHW), y_B1HW, ranks.total)
        loss.backward()
        items = ranks.of_all([i * 10 for i in range(7)][ranks.rank() :: ranks.count()])
        told = ranks.of_first(lambda: f"from {ranks.rank()}")
        if ranks.rank() == 1:  # the second one, so that what it has cannot be the first one's own
            grads = {name: p.grad for name, p in ours.named_parameters()}
            out = {"loss": loss.detach(), "grads": grads, "state": ours.state_dict(), "items": items, "told": told}
            torch.save(out, path)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
