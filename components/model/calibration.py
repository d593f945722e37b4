"""Calibration of probabilities: one temperature for all voxels (Guo et al. 2017), and the calibration error.

Only voxels with a network probability of at least 0.01 are counted. Nearly all voxels are background with a smaller
probability, and would hide the errors of the others. The truth does not decide which voxels are counted: counting all
lesion voxels would make good probabilities look too low.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit

from components.artifacts.trained_model import TrainedModel

COUNTED = 0.01
BINS = 15
SURE = 1 - 1e-7
"""The largest probability that float32 distinguishes from 1."""
NEVER = 1e-12
LOGITS = np.arange(logit(COUNTED), logit(SURE) + 0.02, 0.02)
"""Edges of the histograms' bins."""
MIDDLES = (LOGITS[1:] + LOGITS[:-1]) / 2
WIDEST = 20.0
"""Temperatures are searched from 1/20 to 20."""


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


def fitted_temperature(background: np.ndarray, lesion: np.ndarray) -> float:
    """Return the temperature with the smallest negative log-likelihood, from the `histogram` of each class.

    1 if a class has no counted voxel.
    """
    if not background.any() or not lesion.any():
        return 1.0

    def loss(log_temperature: float) -> float:
        z = MIDDLES / np.exp(log_temperature)
        return -float(lesion @ log_expit(z) + background @ log_expit(-z))

    limit = np.log(WIDEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x))


def reliability(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return voxels, sum of probabilities and number of lesion voxels, (15, 3), for 15 bins of equal width."""
    rows = np.minimum((probability * BINS).astype(int), BINS - 1).ravel()
    weights = (None, probability.ravel(), truth.ravel())
    return np.stack([np.bincount(rows, weight, BINS) for weight in weights], axis=1)


def expected_calibration_error(bins: np.ndarray) -> float | None:
    """Return the mean over voxels of |probability - share of lesion| of their bin; None without voxels.

    bins: sum of `reliability` (15, 3).
    """
    voxels, probability, lesion = bins.T
    return float(np.abs(probability - lesion).sum() / voxels.sum()) if voxels.any() else None
