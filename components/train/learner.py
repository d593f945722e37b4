"""The network in training, with optimizer, schedule, loss scaling and moving average."""

from typing import cast

import torch
from torch import Tensor

from components.core.settings import Settings
from components.model.deep_supervision import DeeplySupervised, loss_over_levels
from components.model.inference import autocast
from components.model.losses import LOSSES
from components.model.network import AttentionUNet
from components.train import ranks
from components.train.autotune import MEMORY_FORMATS
from components.train.ema import Ema
from components.train.initial_output import start_at_prior
from components.train.lr_schedule import Schedule


class Learner:
    """A network in training on the device `where`, with the weights `start`, or from PyTorch's random state.

    `prior` is the share of lesion in the training slices; `batches_per_epoch` is the length of an epoch.
    """

    def __init__(
        self, settings: Settings, channels: int, where: torch.device, precision: str, memory_format: str,
        batches_per_epoch: int, prior: float, start: dict[str, Tensor] | None = None,
    ):  # fmt: skip
        self.loss, self.where, self.precision = LOSSES[settings.loss], where, precision
        self.layout = MEMORY_FORMATS[memory_format]
        network = AttentionUNet(settings.base_channels, channels, settings.norm)
        network.to(where, memory_format=self.layout)  # type: ignore[call-overload]  # unknown to torch's stubs
        self.network = cast(AttentionUNet, ranks.synchronized(network))
        self.whole = DeeplySupervised(self.network).to(where) if settings.deep_supervision else self.network
        if settings.prior_bias:
            start_at_prior(self.whole, prior)
        if start:
            self.network.load_state_dict(start)
        self.ema = Ema(self.network, settings.ema_decay) if settings.ema_decay else None
        rate = settings.learning_rate * (settings.start_rate if settings.start else 1)
        self.optimizer = torch.optim.Adam(
            self.whole.parameters(), lr=rate, weight_decay=settings.weight_decay, fused=True
        )
        self.schedule = Schedule(self.optimizer, settings.schedule, settings.epochs, batches_per_epoch)
        self.scaler = torch.amp.GradScaler(where.type, enabled=precision == "float16")
        self.shared = ranks.parallel(self.whole)

    @property
    def kept(self) -> AttentionUNet:
        """The network that is validated and kept: the moving average if there is one."""
        return cast(AttentionUNet, self.ema.network) if self.ema else self.network

    def step(self, images_BHWC: Tensor, lesions_BHW: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        """Learn from batch number `batch` (from 0) of an epoch (from 1).

        Returns:
            The loss of the batch, and pixel counts of this process's share: found correctly, found, and of lesion.
        """
        x_BCHW = images_BHWC.to(self.where, non_blocking=True).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
        y_B1HW = lesions_BHW.to(self.where, non_blocking=True)[:, None].float()
        self.schedule.before_batch(epoch, batch)
        with autocast(self.where, self.precision):
            output = self.shared(x_BCHW)
        levels = [output] if isinstance(output, Tensor) else output
        loss = loss_over_levels(self.loss, levels, y_B1HW, ranks.total)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.network)
        found, truth = levels[0].detach() > 0, y_B1HW > 0
        return loss.detach(), torch.stack([(found & truth).sum(), found.sum(), truth.sum()])

    def state_dict(self) -> dict:
        """Return the state of all parts, for a checkpoint."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict) -> None:
        """Continue from a checkpoint."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict:
        parts = {"whole": self.whole, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        return {**parts, "ema": self.ema} if self.ema else parts
