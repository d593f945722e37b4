"""Losses over a batch of logits and truths (B, 1, H, W)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum p + sum t + 1), sums over the whole batch (Milletari et al. 2016, smoothed)."""
    p = torch.sigmoid(logits.float())
    return 1 - (2 * (p * truth).sum() + SMOOTH) / (p.sum() + truth.sum() + SMOOTH)


def dice_bce_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice loss plus mean binary cross-entropy, equal weights."""
    return dice_loss(logits, truth) + F.binary_cross_entropy_with_logits(logits.float(), truth)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"dice": dice_loss, "dice+bce": dice_bce_loss}
