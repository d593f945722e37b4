"""The exponential moving average (EMA) of a network's weights over its training (Polyak and Juditsky 1992)."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """`network` is a copy whose weights are the average.

    The running statistics of batch normalisation are averaged too; counters are copied. At first the decay is lower,
    (1 + n) / (10 + n) after n updates, so that the untrained weights lose their influence soon.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the weights after an optimizer step to the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        ours, theirs = (list(n.state_dict().values()) for n in (self.network, network))
        averaged = [i for i, value in enumerate(ours) if value.is_floating_point()]
        get_ema_multi_avg_fn(decay)([ours[i] for i in averaged], [theirs[i] for i in averaged], self.updates)
        for i in set(range(len(ours))) - set(averaged):
            ours[i].copy_(theirs[i])

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        return {"updates": self.updates, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        self.network.load_state_dict(state["network"])
