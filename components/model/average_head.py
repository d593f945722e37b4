"""The average head of the training scans on a coarse grid, to check orientation and brightness of other scans.

A scan that is upside-down, or whose slices are in reverse order, has the mirrored outline of a head. In a b0 or an ADC
map the cerebrospinal fluid is the brightest, not the darkest.
"""

import base64
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from components.artifacts.trained_model import AverageHead
from components.scans.head import Head
from components.scans.left_right import left_right_axis

CELLS = (12, 12, 8)
"""Cells of the head's box: left to right, front to back, along the slices."""
LEFT_RIGHT, FRONT_BACK, SLICES = 0, 1, 2
STEP, UNKNOWN = 100, 255
"""Format of the stored average: one byte per cell, in hundredths."""


@dataclass(frozen=True)
class Portrait:
    """A head on the grid of `CELLS`."""

    outline: np.ndarray
    """Share of each cell that is head, (12, 12, 8)."""
    brightness: np.ndarray
    """Mean of the cell's head voxels divided by the median of the head; NaN if less than half of the cell is head."""


def portrait(volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, head: Head) -> Portrait:
    """Return the portrait of a scan (X, Y, S); without a voxel size the left-right axis is found by symmetry."""
    mask = head.mask
    if voxel_mm is None and left_right_axis(mask) == 1:
        volume, mask = volume.swapaxes(0, 1), mask.swapaxes(0, 1)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    inside = mask[box]
    outline = _in_cells(inside.astype(np.float32))
    bright = _in_cells(np.where(inside, volume[box], 0)) / max(float(np.median(volume[mask])), 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Portrait(outline, np.where(outline >= 0.5, bright / outline, np.nan))


def differences_from_average(head: Portrait, average: AverageHead) -> list[str]:
    """Return how a head differs from the average: upside-down, slices reversed, not a DWI; empty if it does not."""
    cells = _unpacked(average.outline), _unpacked(average.brightness)
    upright, order, like = fits(head.outline, darker_side(head.brightness), *cells)
    reasons = []
    if upright < average.upright:
        reasons.append("looks upside-down: its outline fits the training heads better with front and back swapped")
    if order < average.order:
        reasons.append(
            "its slices look reversed: its outline fits the training heads better with top and bottom swapped"
        )
    if not reasons and like < average.like:
        reasons.append(
            f"does not look like a DWI (is it a b0 or an ADC map?): its brightness correlates with the training heads "
            f"by {like:.2f}, usually by {average.like:.2f} or more"
        )
    return reasons


def fits(
    outline: np.ndarray, darker: np.ndarray, average_outline: np.ndarray, average_darker: np.ndarray
) -> tuple[float, float, float]:
    """Return how well a head fits an average, from -1 to 1: front and back, top and bottom, brightness.

    The first two are correlations of the odd parts, which change their sign when the axis is flipped: below 0 the
    flipped scan fits better. 0 if nothing can be compared.
    """
    upright, order = (_correlation(_odd(outline, axis), _odd(average_outline, axis)) for axis in (FRONT_BACK, SLICES))
    both = np.isfinite(darker) & np.isfinite(average_darker)
    like = _correlation(_centred(darker[both]), _centred(average_darker[both]))
    return upright, order, like


def _odd(cells: np.ndarray, axis: int) -> np.ndarray:
    """Return the part that changes its sign when the axis is flipped, and is even along the two other axes."""
    for other in {0, 1, 2} - {axis}:
        cells = (cells + np.flip(cells, other)) / 2
    return (cells - np.flip(cells, axis)) / 2


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean() if values.size else values


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12))


def darker_side(brightness: np.ndarray) -> np.ndarray:
    """Return the darker of each cell and its mirror image: fluid is bright on both sides, a lesion rarely."""
    return np.minimum(brightness, np.flip(brightness, LEFT_RIGHT))


def _in_cells(values: np.ndarray) -> np.ndarray:
    """Return means of (X, Y, S) over `CELLS`; a voxel on a border is shared between both cells."""
    for axis, cells in enumerate(CELLS):
        values = np.moveaxis(np.tensordot(_shares(values.shape[axis], cells), values, (1, axis)), 0, axis)
    return values


def _shares(voxels: int, cells: int) -> np.ndarray:
    """Return the weight of each voxel in each cell's mean, (cells, voxels)."""
    low, at = np.arange(cells)[:, None] * voxels / cells, np.arange(voxels)
    covered = np.minimum(low + voxels / cells, at + 1) - np.maximum(low, at)
    return covered.clip(0) * cells / voxels


def _unpacked(text: str) -> np.ndarray:
    coded = np.frombuffer(base64.b64decode(text), np.uint8).reshape(CELLS)
    return np.where(coded == UNKNOWN, np.nan, coded / STEP)
