"""The left-right axis of a scan without a geometry (`.npy`).

It is found from the outline of the head alone: left to right, the outline is nearly its own mirror image, and front to
back it is longer. The intensities do not help: a large lesion on one side makes them less alike left to right than
front to back.
"""

import numpy as np

LEAST_AREA = 0.5
"""Slices count if the head's area is at least this share of the largest one."""
MIRROR_WEIGHT = 2


def left_right_axis(head_mask: np.ndarray) -> int:
    """Return 0 or 1, the left-right axis of a head mask (X, Y, S) with square pixels.

    The axis with the higher score: twice the Dice between the mask and its mirror image about its middle along the
    axis, minus the mask's length along the axis over its longer one. An empty or full mask (no head was found) gives 0.
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
