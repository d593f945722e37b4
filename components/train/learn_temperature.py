"""Learn the temperature that calibrates a network's probabilities (Guo et al. 2017)."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_expit

from components.model.calibration import MIDDLES

WIDEST = 20.0
"""Temperatures are searched from 1/20 to 20."""


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
