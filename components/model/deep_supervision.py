"""Deep supervision: in training, coarser decoder levels have an output too (Lee et al. 2015; as in nnU-Net).

The heads of these levels are not part of the network: its weights, forward pass and cost stay those of a network
that was trained without.
"""

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from components.model.network import AttentionUNet, ConvBlock

LEVELS = 3
"""The finest level, and those of half and a quarter of its side. Lesions are hardly visible at coarser levels."""


class DeeplySupervised(nn.Module):
    """The network with a head on each supervised decoder level: logits (B, 1, H, W), (B, 1, H/2, W/2), ..."""

    def __init__(self, network: AttentionUNet):
        super().__init__()
        self.network = network
        first = [cast(nn.Conv2d, cast(ConvBlock, block)[0]) for block in network.decoder]
        self.heads = nn.ModuleList(nn.Conv2d(c.out_channels, 1, 1) for c in first[-2:-LEVELS - 1:-1])  # fmt: skip

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        finest, *coarser = list(self.network.decoded(x_BCHW))[: -LEVELS - 1 : -1]
        coarser_logits = [head(features) for head, features in zip(self.heads, coarser, strict=True)]
        return [self.network.head(finest), *coarser_logits]


def loss_over_levels(loss: Callable[..., Tensor], logits: list[Tensor], truth_B1HW: Tensor, total) -> Tensor:
    """Return the mean loss of the levels, with weights 1, 1/2, 1/4, ... from the finest.

    The truth of a coarser level is the maximum over each of its pixels: no small lesion is lost, and values stay 0 or
    1, as the Dice loss needs. Exact borders are learnt at the finest level.
    """
    weights = [0.5**level for level in range(len(logits))]
    truths = [F.max_pool2d(truth_B1HW, 2**level) if level else truth_B1HW for level in range(len(logits))]
    losses = [w * loss(z, y, total) for w, z, y in zip(weights, logits, truths, strict=True)]
    return cast(Tensor, sum(losses)) / sum(weights)
