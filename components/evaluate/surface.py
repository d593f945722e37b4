"""How far the surfaces of two masks are apart."""

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree


def surface_distance_95(
    predicted: np.ndarray, truth: np.ndarray, voxel_mm: tuple[float, float, float] | None
) -> float | None:
    """Return the 95th percentile of the distances between two surfaces, mm (Huttenlocher 1993, HD95).

    A surface voxel has one of its six neighbours outside the mask, or lies at the border of the scan. From each surface
    voxel's centre to the nearest one of the other mask; the percentile of either direction, and of the two the larger.
    None without a voxel size, or where a mask is empty.
    """
    if voxel_mm is None or not predicted.any() or not truth.any():
        return None
    ours, theirs = (np.argwhere(mask & ~ndimage.binary_erosion(mask)) * voxel_mm for mask in (predicted, truth))
    ways = (KDTree(theirs).query(ours)[0], KDTree(ours).query(theirs)[0])
    return float(max(np.percentile(distances, 95) for distances in ways))
