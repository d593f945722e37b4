"""Attention U-Net (Oktay et al. 2018, arXiv:1804.03999) for 2.5D slices."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.InstanceNorm2d):
    """Normalisation over each slice, with a learnt scale and shift; an empty batch is allowed."""

    def __init__(self, channels: int):
        super().__init__(channels, affine=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if len(x_BCHW):
            return super().forward(x_BCHW)
        return x_BCHW * self.weight[:, None, None] + self.bias[:, None, None]


NORMS = {"batch": nn.BatchNorm2d, "instance": InstanceNorm}


class ConvBlock(nn.Sequential):
    """3x3 convolution, normalisation and ReLU, twice."""

    def __init__(self, c_in: int, c_out: int, norm: str = "batch"):
        super().__init__(
            nn.Conv2d(c_in, c_out, 3, padding=1),
            NORMS[norm](c_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, 3, padding=1),
            NORMS[norm](c_out),
            nn.ReLU(inplace=True),
        )


class AttentionGate(nn.Module):
    """Additive attention on a skip connection, equation 1 of arXiv:1804.03999.

    alpha = sigmoid(psi^T relu(W_x^T x + W_g^T g + b_g) + b_psi), out = alpha * x. The gating signal g is the
    up-convolved decoder level, so it is on the grid of x and alpha needs no resampling.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.w_g = nn.Conv2d(channels, inner, 1)
        self.w_x = nn.Conv2d(channels, inner, 1, bias=False)
        self.psi = nn.Conv2d(inner, 1, 1)

    def forward(self, g_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        alpha_B1HW = torch.sigmoid(self.psi(F.relu(self.w_x(x_BCHW) + self.w_g(g_BCHW))))
        return alpha_B1HW * x_BCHW


class AttentionUNet(nn.Module):
    """Stack of slices (B, 3, H, W) to lesion logits (B, 1, H, W); H and W multiples of 16.

    Widths are 1, 2, 4, 8 times `base_channels` and 16 times at the bottleneck. `norm` is one of `NORMS`.
    """

    def __init__(self, base_channels: int = 64, in_channels: int = 3, norm: str = "batch"):
        super().__init__()
        block = partial(ConvBlock, norm=norm)
        widths = [base_channels * 2**level for level in range(4)]
        self.encoder = nn.ModuleList(map(block, [in_channels, *widths[:-1]], widths))
        self.bottleneck = block(widths[-1], 2 * widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths))
        self.gates = nn.ModuleList(AttentionGate(w) for w in reversed(widths))
        self.decoder = nn.ModuleList(block(2 * w, w) for w in reversed(widths))
        self.head = nn.Conv2d(base_channels, 1, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for features_BCHW in self.decoded(x_BCHW):  # noqa: B007 - only the last, finest level is used
            pass
        return self.head(features_BCHW)

    def decoded(self, x_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield the features of each decoder level, from 1/8 of the side to the full side."""
        skips = []
        for block in self.encoder:
            x_BCHW = block(x_BCHW)
            skips.append(x_BCHW)
            x_BCHW = F.max_pool2d(x_BCHW, 2)
        x_BCHW = self.bottleneck(x_BCHW)
        for up, gate, block, skip in zip(self.up, self.gates, self.decoder, reversed(skips), strict=True):
            g_BCHW = up(x_BCHW)
            x_BCHW = block(torch.cat([gate(g_BCHW, skip), g_BCHW], dim=1))
            yield x_BCHW
