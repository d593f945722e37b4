"""The learning rate: halved when the validation loss stops falling, or falling over all epochs.

A falling rate changes with every batch. It depends only on the number of the batch, so a resumed training has the same
rates.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 5
WARM_UP = 0.03
"""Share of all batches in which a falling rate first rises, in equal steps."""
POLY_POWER = 0.9
FALLING = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "poly": lambda done: (1 - done) ** POLY_POWER,
}
"""Share of the batches after the warm-up to share of the learning rate."""


def share_of_rate(kind: str, batch: int, batches: int) -> float:
    """Return the share of the learning rate, above 0 and at most 1, at batch number `batch` (from 0) of `batches`.

    cosine: Loshchilov and Hutter 2017 (arXiv:1608.03983), without restarts. poly: as in nnU-Net.
    """
    warm_up = math.ceil(WARM_UP * batches)
    if batch < warm_up:
        return (batch + 1) / warm_up
    return FALLING[kind]((batch - warm_up) / (batches - warm_up))


class Schedule:
    """The learning rate of an optimizer over `epochs` of `batches_per_epoch`; `kind` is "plateau", "cosine" or "poly".

    A training that stops early does not reach the lowest rate.
    """

    def __init__(self, optimizer: Optimizer, kind: str, epochs: int, batches_per_epoch: int):
        self.optimizer, self.kind = optimizer, kind
        self.per_epoch, self.batches = batches_per_epoch, epochs * batches_per_epoch
        self.first_rate = optimizer.param_groups[0]["lr"]
        self.plateau = ReduceLROnPlateau(optimizer, "min", PLATEAU_FACTOR, PLATEAU_PATIENCE)

    @property
    def rate(self) -> float:
        """The present learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    def before_batch(self, epoch: int, batch: int) -> None:
        """Set the rate for a batch (from 0) of an epoch (from 1)."""
        if self.kind in FALLING:
            rate = self.first_rate * share_of_rate(self.kind, (epoch - 1) * self.per_epoch + batch, self.batches)
            for group in self.optimizer.param_groups:
                group["lr"] = rate

    def after_epoch(self, validation_loss: float) -> None:
        """Lower the rate of a plateau schedule if the validation loss has stopped falling."""
        if self.kind not in FALLING:
            self.plateau.step(validation_loss)

    def state_dict(self) -> dict:
        return self.plateau.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.plateau.load_state_dict(state)
