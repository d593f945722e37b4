"""Make a lesion mask of probabilities: apply the threshold, and drop components that are too small."""

import numpy as np
from scipy import ndimage

from components.artifacts.trained_model import TrainedModel

TOUCHING = np.ones((3, 3, 3), bool)
"""Lesions are 26-connected components."""


def lesion_mask(
    probability: np.ndarray, trained: TrainedModel, voxel_mm: tuple[float, float, float] | None
) -> np.ndarray:
    """Return the lesion mask, bool (X, Y, S), of probabilities on the scan's own grid."""
    smallest = smallest_voxels(trained.smallest_lesion_ml, trained.smallest_lesion_voxels, voxel_mm)
    return without_small(probability >= trained.threshold, smallest)


def smallest_voxels(
    smallest_lesion_ml: float | None = None,
    smallest_lesion_voxels: float | None = None,
    voxel_mm: tuple[float, float, float] | None = None,
) -> float:
    """Return the number of voxels of the smallest lesion to keep in a scan; 0 keeps all.

    A size in mL is ignored if the scan has no voxel size.
    """
    if smallest_lesion_ml is None:
        return smallest_lesion_voxels or 0
    return 0 if voxel_mm is None else smallest_lesion_ml * 1000 / float(np.prod(voxel_mm))


def without_small(mask: np.ndarray, voxels: float) -> np.ndarray:
    """Return the mask (X, Y, S) without components of fewer than `voxels` voxels; the largest always stays."""
    if voxels <= 1 or not mask.any():
        return mask
    components, _ = ndimage.label(mask, TOUCHING)
    kept = kept_components(np.bincount(components.ravel())[1:], voxels)
    return np.concatenate([[False], kept])[components]


def kept_components(sizes: np.ndarray, voxels: float) -> np.ndarray:
    """Return which components of these sizes are kept, bool: those of at least `voxels` voxels, or else the largest."""
    kept = sizes >= voxels
    if len(sizes) and not kept.any():
        kept[sizes.argmax()] = True
    return kept
