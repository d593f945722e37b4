"""Probabilities of a network that is too sure, or not sure enough."""

import numpy as np
from scipy.special import expit

VOXELS = 200_000


def overconfident(temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a network whose logits are `temperature` times too large, and the truth they stand for."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, VOXELS)
    truth = rng.random(VOXELS) < expit(honest)
    return expit(temperature * honest).astype(np.float32), truth
