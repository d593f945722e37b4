"""Which in-plane axis is left-right, in a scan whose file does not say it (`.npy`).

By the outline of the head alone: it is nearly its own mirror image left to right, and longer front to back. The
intensities inside it were tried and left out, since a large lesion on one side makes them less alike left to right
than front to back.
"""

import numpy as np

LEAST_AREA = 0.5
"""Slices count where the head is at least so large, as a share of the slice where it is largest."""
MIRROR_WEIGHT = 2


def left_right_axis(head_mask: np.ndarray) -> int:
    """Return 0 or 1, the left-right axis of a head mask (X, Y, S) with square pixels.

    The axis with the higher score: twice the Dice between the mask and its mirror image about its middle along the
    axis, less the mask's length along the axis over its longer one. A mask that is empty or full, as where no head was
    found, gives 0.
    """
    if head_mask.all() or not head_mask.any():
        return 0
    area = head_mask.sum((0, 1))
    mask = head_mask[:, :, area >= LEAST_AREA * area.max()]
    for axis in (0, 1):
        inside = np.flatnonzero(mask.any(axis=(1 - axis, 2)))
        mask = mask.take(np.arange(inside[0], inside[-1] + 1), axis)
    scores = [
        MIRROR_WEIGHT * (mask & np.flip(mask, axis)).sum() / mask.sum() - mask.shape[axis] / max(mask.shape[:2])
        for axis in (0, 1)
    ]
    return int(scores[1] > scores[0])
