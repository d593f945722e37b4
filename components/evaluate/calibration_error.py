"""The calibration error of probabilities: how far they are from the share of lesion voxels."""

import numpy as np

BINS = 15


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
