"""A threshold rule without a network: voxels that are clearly brighter than the brain are lesion.

A useful model must be better than this rule.
"""

import numpy as np
from scipy import ndimage

from components.scans.head import UNKNOWN_PIXEL_MM

SMOOTHING_MM = 1.0
"""Standard deviation of the Gaussian, in the plane."""
FACTOR = 1.8
"""Lesion is this many times as bright as the median of the head."""
SMALLEST_ML = 0.1
TOUCHING = np.ones((3, 3, 3), bool)
"""Lesions are 26-connected components."""
UNKNOWN_SLICE_MM = 5.0


def rule_mask(volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, head: np.ndarray) -> np.ndarray:
    """Return the lesion mask, bool (X, Y, S), of a DWI (X, Y, S) whose head is `head`, bool (X, Y, S).

    The DWI is smoothed by 1 mm in the plane. Voxels of the head above 1.8 times its median are lesion; components
    below 0.1 mL are dropped. Without a voxel size 1.8 x 1.8 x 5 mm is taken.
    """
    x, y, z = voxel_mm or (UNKNOWN_PIXEL_MM, UNKNOWN_PIXEL_MM, UNKNOWN_SLICE_MM)
    smooth = ndimage.gaussian_filter(volume, (SMOOTHING_MM / x, SMOOTHING_MM / y, 0))
    bright = head & (smooth > FACTOR * np.median(volume[head]))
    parts, _ = ndimage.label(bright, TOUCHING)
    kept = np.bincount(parts.ravel()) * (x * y * z / 1000) >= SMALLEST_ML
    kept[0] = False
    return kept[parts]
