"""The progress of a training, as a checkpoint keeps it."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.train import ranks

EpochRow = dict[str, float]
"""The numbers of one epoch: losses, Dice, learning rate, seconds."""


@dataclass(frozen=True)
class Best:
    """The best weights so far, by their validation score."""

    score: float
    val_dice: float
    epoch: int
    weights: dict[str, Tensor]


class Progress:
    """Finished epochs, the best weights, and losses, pixel counts and seconds of the unfinished epoch.

    counts: pixels found correctly, found, and of lesion, over the batches of this process.
    """

    def __init__(self, device: torch.device, first_weights: dict[str, Tensor]):
        self.history: list[EpochRow] = []
        self.best = Best(-1.0, 0.0, 0, first_weights)
        self.resumed_epochs = 0
        self.device = device
        self._start = time.perf_counter()
        self._clear_epoch()

    @property
    def epoch(self) -> int:
        """Number of the unfinished epoch, from 1."""
        return len(self.history) + 1

    @property
    def batches_done(self) -> int:
        """Batches of the unfinished epoch that are finished."""
        return len(self.losses)

    def start_clock(self) -> None:
        """Measure the seconds of the epoch from now on, in addition to those before an interruption."""
        self._start = time.perf_counter() - self.seconds

    def elapsed(self) -> float:
        """Return the seconds that the unfinished epoch has taken."""
        return time.perf_counter() - self._start

    def pause(self) -> None:
        """Keep the seconds of the unfinished epoch for the checkpoint."""
        self.seconds = self.elapsed()

    def add_batch(self, loss: Tensor, counts: Tensor) -> None:
        """Add the loss and the pixel counts of a batch."""
        self.losses.append(loss)
        self.counts += counts

    def finish_epoch(self, row: EpochRow) -> None:
        """Add the numbers of the epoch, and begin the next one."""
        self.history.append(row)
        self._clear_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        losses = torch.stack(self.losses) if self.losses else torch.empty(0)
        best = vars(self.best)
        return {
            "history": self.history, "best": best, "losses": losses, "counts": self.counts, "seconds": self.seconds,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.history, self.best = state["history"], Best(**state["best"])
        self.resumed_epochs = len(self.history)
        self.losses, self.seconds = list(state["losses"].to(self.device)), state["seconds"]
        self.counts = state["counts"].to(self.device) * ranks.first()  # counts are summed over the processes

    def _clear_epoch(self) -> None:
        self.losses: list[Tensor] = []
        self.counts = torch.zeros(3, dtype=torch.int64, device=self.device)
        self.seconds = 0.0
