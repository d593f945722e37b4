"""Deep supervision: while it learns, the decoder answers at coarser levels too (Lee et al. 2015; as nnU-Net does it).

The heads for that are beside the network, not in it: its weights, its forward pass and its cost stay those of a
network that was trained without.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from components.model.network import AttentionUNet

LEVELS = 3
"""The finest, a half and a quarter of its side: a lesion is hardly seen in coarser ones."""


class DeeplySupervised(nn.Module):
    """The network with a head on each supervised decoder level: logits (B, 1, H, W), (B, 1, H/2, W/2), ..."""

    def __init__(self, network: AttentionUNet):
        super().__init__()
        self.network = network
        coarser = [block[0].out_channels for block in network.decoder][-2:-LEVELS - 1:-1]  # fmt: skip
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in coarser)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        finest, *coarser = list(self.network.decoded(x_BCHW))[: -LEVELS - 1 : -1]
        answers = [head(features) for head, features in zip(self.heads, coarser, strict=True)]
        return [self.network.head(finest), *answers]


def loss_over_levels(loss: Callable[..., Tensor], logits: list[Tensor], truth_B1HW: Tensor, total) -> Tensor:
    """The mean of each level's loss, weighted 1, 1/2, 1/4, ... from the finest on.

    A coarser level's truth is the maximum over each of its pixels: no lesion is lost, however small, and it stays 0 or
    1, which Dice wants (its optimum is no share). Where the lesion ends is for the finest level to say.
    """
    weights = [0.5**level for level in range(len(logits))]
    truths = [F.max_pool2d(truth_B1HW, 2**level) if level else truth_B1HW for level in range(len(logits))]
    losses = [w * loss(z, y, total) for w, z, y in zip(weights, logits, truths, strict=True)]
    return sum(losses) / sum(weights)
