"""Calibration of probabilities: one temperature for all voxels (Guo et al. 2017)."""

import numpy as np
from scipy.special import expit, logit

from components.artifacts.trained_model import TrainedModel

COUNTED = 0.01
"""Only voxels with a network probability of at least this are counted when the temperature is learnt and its error is
measured. Nearly all voxels are background with a smaller one, and would hide the errors of the others. The truth does
not decide which voxels are counted: counting all lesion voxels would make good probabilities look too low."""
SURE = 1 - 1e-7
"""The largest probability that float32 distinguishes from 1."""
NEVER = 1e-12
LOGITS = np.arange(logit(COUNTED), logit(SURE) + 0.02, 0.02)
"""Edges of the histograms' bins."""
MIDDLES = (LOGITS[1:] + LOGITS[:-1]) / 2


def calibrated(probability: np.ndarray, trained: TrainedModel) -> np.ndarray:
    """Return sigmoid(logit(p) / T) with the model's temperature T; the input itself if the model has none."""
    temperature = trained.temperature
    if temperature is None or temperature == 1:
        return probability
    return expit(logit(probability.clip(NEVER, SURE)) / np.float32(temperature))


def histogram(probability: np.ndarray) -> np.ndarray:
    """Count the voxels with a probability of at least 0.01 by their logit; one number for each of `MIDDLES`."""
    counted = probability[probability >= COUNTED]
    return np.histogram(logit(counted.clip(COUNTED, SURE).astype(float)).clip(LOGITS[0], LOGITS[-1]), LOGITS)[0]
