"""Probabilities that mean what they say: one temperature for all voxels (Guo et al. 2017), and how far off they are.

Voxels count from a network's probability of 0.01 on. Nearly all of a scan is background below that, sure and right,
beside which any error elsewhere would look like none. Which count is never asked of the truth: a voxel that counts
for being lesion alone makes honest probabilities look too low.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit

COUNTED = 0.01
BINS = 15
SURE = 1 - 1e-7
"""The highest probability told from 1, in float32."""
NEVER = 1e-12
LOGITS = np.arange(logit(COUNTED), logit(SURE) + 0.02, 0.02)
"""Edges of the histograms' bins."""
MIDDLES = (LOGITS[1:] + LOGITS[:-1]) / 2
WIDEST = 20.0
"""Temperatures are sought from 1/20 to 20."""


def calibrated(probability: np.ndarray, facts: dict) -> np.ndarray:
    """sigmoid(logit(p) / T), T being `temperature` in `model.json`; as they are where the model has none."""
    temperature = facts.get("temperature", 1.0)
    if temperature == 1:
        return probability
    return expit(logit(probability.clip(NEVER, SURE)) / np.float32(temperature))


def histogram(probability: np.ndarray) -> np.ndarray:
    """How many voxels have which logit: a count for each of `MIDDLES`, of the voxels that count."""
    counted = probability[probability >= COUNTED]
    return np.histogram(logit(counted.clip(COUNTED, SURE).astype(float)).clip(LOGITS[0], LOGITS[-1]), LOGITS)[0]


def fitted_temperature(background: np.ndarray, lesion: np.ndarray) -> float:
    """The T with the least negative log-likelihood, from the `histogram` of either truth.

    1 where there is nothing to learn it from: no voxel that counts, or all of one truth.
    """
    if not background.any() or not lesion.any():
        return 1.0

    def loss(log_temperature: float) -> float:
        z = MIDDLES / np.exp(log_temperature)
        return -float(lesion @ log_expit(z) + background @ log_expit(-z))

    limit = np.log(WIDEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x))


def reliability(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Voxels, sum of their probabilities, and how many are lesion, (15, 3), for 15 bins of equal width."""
    rows = np.minimum((probability * BINS).astype(int), BINS - 1).ravel()
    weights = (None, probability.ravel(), truth.ravel())
    return np.stack([np.bincount(rows, weight, BINS) for weight in weights], axis=1)


def expected_calibration_error(bins: np.ndarray) -> float | None:
    """Mean over voxels of |probability - share of lesion| of their bin, from the sum of `reliability`; of none None."""
    voxels, probability, lesion = bins.T
    return float(np.abs(probability - lesion).sum() / voxels.sum()) if voxels.any() else None
