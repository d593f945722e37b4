"""Losses over a batch of logits and truths (B, 1, H, W).

Each takes `total`, which sums a tensor over the processes that share the batch; alone it is the tensor itself.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0


def _alone(share: Tensor) -> Tensor:
    return share


def dice_loss(logits: Tensor, truth: Tensor, total=_alone) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum p + sum t + 1), sums over the whole batch (Milletari et al. 2016, smoothed)."""
    p = torch.sigmoid(logits.float())
    both, sizes = total(torch.stack([(p * truth).sum(), p.sum() + truth.sum()]))
    return 1 - (2 * both + SMOOTH) / (sizes + SMOOTH)


def dice_bce_loss(logits: Tensor, truth: Tensor, total=_alone) -> Tensor:
    """Dice loss plus mean binary cross-entropy, equal weights."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="sum")
    pixels = total(torch.tensor(float(truth.numel()), device=truth.device))
    return dice_loss(logits, truth, total) + total(cross_entropy) / pixels


LOSSES: dict[str, Callable[..., Tensor]] = {"dice": dice_loss, "dice+bce": dice_bce_loss}
