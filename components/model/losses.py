"""Losses over a batch of logits and truths (B, 1, H, W).

The argument `total` sums a tensor over the processes that share the batch; with one process it returns the tensor.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0
TVERSKY_ALPHA, TVERSKY_BETA, TVERSKY_GAMMA = 0.7, 0.3, 4 / 3
NEVER_ZERO = 1e-9
"""A root has no finite slope at zero."""


def _alone(share: Tensor) -> Tensor:
    return share


def dice_loss(logits: Tensor, truth: Tensor, total=_alone) -> Tensor:
    """Return 1 - (2 sum(p t) + 1) / (sum p + sum t + 1), sums over the batch (Milletari et al. 2016, smoothed)."""
    p = torch.sigmoid(logits.float())
    both, sizes = total(torch.stack([(p * truth).sum(), p.sum() + truth.sum()]))
    return 1 - (2 * both + SMOOTH) / (sizes + SMOOTH)


def dice_bce_loss(logits: Tensor, truth: Tensor, total=_alone) -> Tensor:
    """Return the Dice loss plus the mean binary cross-entropy, with equal weights."""
    return dice_loss(logits, truth, total) + _mean_cross_entropy(logits, truth, total)


def slice_dice_bce_loss(logits: Tensor, truth: Tensor, total=_alone) -> Tensor:
    """Return the mean over slices of each slice's Dice loss, plus the mean binary cross-entropy, with equal weights.

    In the Dice loss of a whole batch, large lesions hide small ones; here all slices have the same weight.
    """
    p, t = torch.sigmoid(logits.float()).flatten(1), truth.flatten(1)
    each = 1 - (2 * (p * t).sum(1) + SMOOTH) / (p.sum(1) + t.sum(1) + SMOOTH)
    slices = total(torch.tensor(float(len(truth)), device=truth.device))
    return total(each.sum()) / slices + _mean_cross_entropy(logits, truth, total)


def _mean_cross_entropy(logits: Tensor, truth: Tensor, total) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="sum")
    return total(cross_entropy) / total(torch.tensor(float(truth.numel()), device=truth.device))


def focal_tversky_loss(logits: Tensor, truth: Tensor, total=_alone) -> Tensor:
    """Return (1 - TI)^(3/4), TI = (TP + 1) / (TP + 0.7 FN + 0.3 FP + 1), sums over the whole batch.

    Abraham and Khan 2019 (arXiv:1810.07842) with the alpha, beta and gamma of their experiments: alpha weighs what is
    missed, and the exponent is 1 / gamma, gamma = 4/3. A batch that is nearly correct then has more weight than with an
    exponent above 1.
    """
    p = torch.sigmoid(logits.float())
    both, missed, false = total(torch.stack([(p * truth).sum(), ((1 - p) * truth).sum(), (p * (1 - truth)).sum()]))
    wrong = TVERSKY_ALPHA * missed + TVERSKY_BETA * false
    share = wrong / (both + wrong + SMOOTH)  # 1 - TI without its cancellation
    return share.clamp_min(NEVER_ZERO) ** (1 / TVERSKY_GAMMA)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "dice": dice_loss,
    "dice+bce": dice_bce_loss,
    "slice_dice+bce": slice_dice_bce_loss,
    "focal_tversky": focal_tversky_loss,
}
