"""The output of the untrained network: near the share of lesion in the training slices.

Lin et al. 2017, Focal loss for dense object detection (arXiv:1708.02002), section 3.3. With 0.5 everywhere the network
would first have to learn that nearly all pixels are background.
"""

import math
from typing import cast

import torch

from components.model.deep_supervision import DeeplySupervised
from components.model.network import AttentionUNet

LEAST = 1e-6


@torch.no_grad()
def start_at_prior(learner: AttentionUNet | DeeplySupervised, prior: float) -> None:
    """Set the bias of every last layer to logit(prior), the log-odds of a pixel of lesion.

    `prior` is between 0 and 1, and is clipped to 0.000001 and 0.999999.
    """
    prior = min(max(prior, LEAST), 1 - LEAST)
    heads = [learner.network.head, *learner.heads] if isinstance(learner, DeeplySupervised) else [learner.head]
    for head in heads:
        cast(torch.Tensor, head.bias).fill_(math.log(prior / (1 - prior)))
