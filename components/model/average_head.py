"""The average head of the training scans on a coarse grid: does a scan lie as they do, and is it bright where they are?

A scan turned upside-down or with its slices in reverse order has the outline of a head, but the mirrored one. A b0
or an ADC map has its bright and dark places the wrong way round: cerebrospinal fluid is the brightest.
"""

import base64
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from components.core.usual_range import prediction_bound
from components.scans.head import Head
from components.scans.left_right import left_right_axis

CELLS = (12, 12, 8)
"""Cells of the head's box: left to right, front to back, along the slices."""
LEFT_RIGHT, FRONT_BACK, SLICES = 0, 1, 2
FEWEST = 5
"""Below so many training heads there is no average."""
EXCEEDED = 0.005
"""Chance that a scan like those of training is taken for another, for each of the three limits."""
ALIKE = 0.5
"""A scan whose brightness fits this well is like the training scans, however alike they are themselves."""
STEP, UNKNOWN = 100, 255
"""How the average is stored: a byte for a cell, in hundredths."""


@dataclass(frozen=True)
class Portrait:
    """A head on `CELLS`.

    outline: share of each cell that is head. brightness: mean of the cell's head voxels over the median of the head;
    NaN where less than half of the cell is head.
    """

    outline: np.ndarray
    brightness: np.ndarray


def portrait(volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, head: Head) -> Portrait:
    """Return the portrait of a scan (X, Y, S); without a voxel size left-right is found by symmetry."""
    mask = head.mask
    if voxel_mm is None and left_right_axis(mask) == 1:
        volume, mask = volume.swapaxes(0, 1), mask.swapaxes(0, 1)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    inside = mask[box]
    outline = _in_cells(inside.astype(np.float32))
    bright = _in_cells(np.where(inside, volume[box], 0)) / max(float(np.median(volume[mask])), 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Portrait(outline, np.where(outline >= 0.5, bright / outline, np.nan))


def learn_average(portraits: list[Portrait]) -> dict | None:
    """Return the average of the training heads and how well each fits that of all others, for `model.json`.

    None below 5 heads.
    """
    if len(portraits) < FEWEST:
        return None
    outlines = np.stack([p.outline for p in portraits])
    darker = np.stack([_darker_side(p.brightness) for p in portraits])
    fits = [_fits(*pair) for pair in zip(outlines, darker, _others(outlines), _others(darker), strict=True)]
    upright, order, like = (prediction_bound(column, EXCEEDED, lower=True) for column in zip(*fits, strict=True))
    return {
        "outline": _packed(outlines.mean(0)),
        "brightness": _packed(_mean(darker)),
        "upright": min(upright, 0.0),
        "order": min(order, 0.0),
        "like": min(like, ALIKE),
    }


def unlike_average(here: Portrait, learnt: dict) -> list[str]:
    """Return in words how a head differs from the average one: upside-down, its slices reversed, not a DWI."""
    average = _unpacked(learnt["outline"]), _unpacked(learnt["brightness"])
    upright, order, like = _fits(here.outline, _darker_side(here.brightness), *average)
    said = []
    if upright < learnt["upright"]:
        said.append("looks upside-down: its outline fits the training heads better with front and back swapped")
    if order < learnt["order"]:
        said.append("its slices look reversed: its outline fits the training heads better with top and bottom swapped")
    if not said and like < learnt["like"]:
        said.append(
            f"does not look like a DWI (is it a b0 or an ADC map?): where it is bright correlates with the training "
            f"heads by {like:.2f}, usually by {learnt['like']:.2f} or more"
        )
    return said


def _fits(outline, darker, average_outline, average_darker) -> tuple[float, float, float]:
    """How well a head fits an average, from -1 to 1: front and back, top and bottom, brightness.

    The first two are correlations of what a flip of the axis changes the sign of, so it changes theirs, and below 0
    the flipped scan fits better. 0 where nothing can be compared.
    """
    upright, order = (_correlation(_odd(outline, axis), _odd(average_outline, axis)) for axis in (FRONT_BACK, SLICES))
    known = np.isfinite(darker) & np.isfinite(average_darker)
    like = _correlation(*(_centred(cells[known]) for cells in (darker, average_darker)))
    return upright, order, like


def _odd(cells: np.ndarray, axis: int) -> np.ndarray:
    """What changes its sign when the axis is flipped, and nothing else: even along the two other axes."""
    for other in {0, 1, 2} - {axis}:
        cells = (cells + np.flip(cells, other)) / 2
    return (cells - np.flip(cells, axis)) / 2


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean() if values.size else values


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12))


def _darker_side(brightness: np.ndarray) -> np.ndarray:
    """The darker of each cell and its mirror image: a lesion is rarely bright on both sides, fluid is."""
    return np.minimum(brightness, np.flip(brightness, LEFT_RIGHT))


def _mean(cells: np.ndarray) -> np.ndarray:
    """Over heads; NaN where fewer than half of them have the cell."""
    count = np.isfinite(cells).sum(0)
    return np.where(2 * count >= len(cells), np.nansum(cells, 0) / np.maximum(count, 1), np.nan)


def _others(cells: np.ndarray) -> list[np.ndarray]:
    """For each head the mean of all others."""
    total, count = np.nansum(cells, 0), np.isfinite(cells).sum(0)
    means = []
    for own in cells:
        left = count - np.isfinite(own)
        means.append(np.where(2 * left >= len(cells) - 1, (total - np.nan_to_num(own)) / np.maximum(left, 1), np.nan))
    return means


def _in_cells(values: np.ndarray) -> np.ndarray:
    """Means of (X, Y, S) over `CELLS`; a voxel on a border counts for both sides by its share."""
    for axis, cells in enumerate(CELLS):
        values = np.moveaxis(np.tensordot(_shares(values.shape[axis], cells), values, (1, axis)), 0, axis)
    return values


def _shares(voxels: int, cells: int) -> np.ndarray:
    """(cells, voxels): by how much each voxel counts in each cell's mean."""
    low, at = np.arange(cells)[:, None] * voxels / cells, np.arange(voxels)
    covered = np.minimum(low + voxels / cells, at + 1) - np.maximum(low, at)
    return covered.clip(0) * cells / voxels


def _packed(cells: np.ndarray) -> str:
    coded = np.where(np.isfinite(cells), (cells * STEP).round().clip(0, UNKNOWN - 1), UNKNOWN)
    return base64.b64encode(coded.astype(np.uint8).tobytes()).decode()


def _unpacked(text: str) -> np.ndarray:
    coded = np.frombuffer(base64.b64decode(text), np.uint8).reshape(CELLS)
    return np.where(coded == UNKNOWN, np.nan, coded / STEP)
