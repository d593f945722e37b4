"""How the learning rate changes: halved where the validation loss rests, or falling over the epochs that are given.

A falling rate is stepped with every batch. It is a function of the batch's number alone, so a training that goes on
from a checkpoint has the rate that it would have had.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 5
WARM_UP = 0.03
"""Share of all batches in which a falling rate rises first, in equal steps."""
POLY_POWER = 0.9
FALLING = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "poly": lambda done: (1 - done) ** POLY_POWER,
}
"""Share of the learning rate that is left when this share of the batches after the warm-up is done."""


def share_of_rate(kind: str, batch: int, batches: int) -> float:
    """Share of the learning rate at a batch, from 0 on, of a training of so many batches; above 0 and at most 1.

    cosine: Loshchilov and Hutter 2017 (arXiv:1608.03983), without restarts. poly: as nnU-Net has it.
    """
    warm_up = math.ceil(WARM_UP * batches)
    if batch < warm_up:
        return (batch + 1) / warm_up
    return FALLING[kind]((batch - warm_up) / (batches - warm_up))


class Schedule:
    """The learning rate of an optimizer over `epochs` of `batches_per_epoch`; `kind` is "plateau", "cosine" or "poly".

    A training that stops early ends at a rate that has not fallen all the way.
    """

    def __init__(self, optimizer: Optimizer, kind: str, epochs: int, batches_per_epoch: int):
        self.optimizer, self.kind = optimizer, kind
        self.per_epoch, self.batches = batches_per_epoch, epochs * batches_per_epoch
        self.first_rate = optimizer.param_groups[0]["lr"]
        self.plateau = ReduceLROnPlateau(optimizer, "min", PLATEAU_FACTOR, PLATEAU_PATIENCE)

    @property
    def rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def before_batch(self, epoch: int, batch: int) -> None:
        """Set the rate for a batch (from 0 on) of an epoch (from 1 on)."""
        if self.kind in FALLING:
            rate = self.first_rate * share_of_rate(self.kind, (epoch - 1) * self.per_epoch + batch, self.batches)
            for group in self.optimizer.param_groups:
                group["lr"] = rate

    def after_epoch(self, validation_loss: float) -> None:
        if self.kind not in FALLING:
            self.plateau.step(validation_loss)

    def state_dict(self) -> dict:
        return self.plateau.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.plateau.load_state_dict(state)
