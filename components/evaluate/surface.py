"""Distance between the surfaces of two masks."""

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree


def surface_distance_95(
    predicted: np.ndarray, truth: np.ndarray, voxel_mm: tuple[float, float, float] | None
) -> float | None:
    """Return the 95th percentile of the distances between two surfaces, mm (Huttenlocher 1993, HD95).

    A surface voxel has one of its six neighbours outside the mask, or is at the border of the scan. Distances are
    between voxel centres, from each surface voxel to the nearest one of the other mask. Of the percentiles of both
    directions, return the larger. None without a voxel size, or if a mask is empty.
    """
    if voxel_mm is None or not predicted.any() or not truth.any():
        return None
    predicted_mm, truth_mm = (
        np.argwhere(mask & ~ndimage.binary_erosion(mask)) * voxel_mm for mask in (predicted, truth)
    )
    both_ways = (KDTree(truth_mm).query(predicted_mm)[0], KDTree(predicted_mm).query(truth_mm)[0])
    return float(max(np.percentile(distances, 95) for distances in both_ways))
