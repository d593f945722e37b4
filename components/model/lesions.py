"""From lesion probabilities to a mask: where they reach the threshold, less what is too small to be a lesion."""

import numpy as np
from scipy import ndimage

TOUCHING = np.ones((3, 3, 3), bool)
"""Lesions are 26-connected components."""


def lesion_mask(probability: np.ndarray, facts: dict, voxel_mm: tuple[float, float, float] | None) -> np.ndarray:
    """The mask (X, Y, S) that the content of `model.json` makes of probabilities on the scan's own grid.

    With `cca` it holds the smallest lesion to keep, `smallest_lesion_ml` or, learnt from scans without a voxel size,
    `smallest_lesion_voxels`. Of a scan whose volumes in mL are unknown nothing is dropped for its mL.
    """
    return without_small(probability >= facts["threshold"], smallest_voxels(facts, voxel_mm))


def smallest_voxels(facts: dict, voxel_mm: tuple[float, float, float] | None) -> float:
    """Voxels of the smallest lesion to keep in a scan; 0 keeps all."""
    if "smallest_lesion_ml" not in facts:
        return facts.get("smallest_lesion_voxels", 0)
    return 0 if voxel_mm is None else facts["smallest_lesion_ml"] * 1000 / float(np.prod(voxel_mm))


def without_small(mask: np.ndarray, voxels: float) -> np.ndarray:
    """The mask (X, Y, S) without its components of fewer than so many voxels; the largest always stays."""
    if voxels <= 1 or not mask.any():
        return mask
    components, _ = ndimage.label(mask, TOUCHING)
    kept = kept_components(np.bincount(components.ravel())[1:], voxels)
    return np.concatenate([[False], kept])[components]


def kept_components(sizes: np.ndarray, voxels: float) -> np.ndarray:
    """Which components of these sizes (voxels) are kept: those of at least so many voxels, or else the largest."""
    kept = sizes >= voxels
    if len(sizes) and not kept.any():
        kept[sizes.argmax()] = True
    return kept
