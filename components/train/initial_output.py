"""Where the network starts: its answer to anything is near the share of lesion in what it is shown (Lin et al. 2017).

Focal loss for dense object detection (arXiv:1708.02002), section 3.3. From 0.5 everywhere it would first have to learn
that nearly nothing is lesion.
"""

import math

import torch

from components.model.deep_supervision import DeeplySupervised
from components.model.network import AttentionUNet

LEAST = 1e-6


@torch.no_grad()
def start_at_prior(learner: AttentionUNet | DeeplySupervised, prior: float) -> None:
    """Set the bias of every last layer to logit(prior), the log-odds of a pixel of lesion; `prior` is between 0 and 1.

    Beyond 0.000001 of 0 or of 1 it is taken for that.
    """
    prior = min(max(prior, LEAST), 1 - LEAST)
    heads = [learner.network.head, *learner.heads] if isinstance(learner, DeeplySupervised) else [learner.head]
    for head in heads:
        head.bias.fill_(math.log(prior / (1 - prior)))
