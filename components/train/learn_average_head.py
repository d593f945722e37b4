"""Learn the average head of the training scans."""

import base64

import numpy as np

from components.artifacts.trained_model import AverageHead
from components.core.usual_range import prediction_bound
from components.model.average_head import STEP, UNKNOWN, Portrait, darker_side, fits

FEWEST = 5
"""With fewer training heads there is no average."""
EXCEEDED = 0.005
"""Probability that a usual scan is flagged, for each of the three limits."""
ALIKE = 0.5
"""A scan whose brightness fits this well is never flagged, even if the training scans fit much better."""


def learn_average(portraits: list[Portrait]) -> AverageHead | None:
    """Return the average of the training heads, and how well each head fits the average of the others.

    None for fewer than 5 heads.
    """
    if len(portraits) < FEWEST:
        return None
    outlines = np.stack([p.outline for p in portraits])
    darker = np.stack([darker_side(p.brightness) for p in portraits])
    fitting = [fits(*pair) for pair in zip(outlines, darker, _others(outlines), _others(darker), strict=True)]
    upright, order, like = (
        prediction_bound(column, EXCEEDED, lower=True) or 0.0 for column in zip(*fitting, strict=True)
    )
    return AverageHead(
        outline=_packed(outlines.mean(0)),
        brightness=_packed(_mean(darker)),
        upright=min(upright, 0.0),
        order=min(order, 0.0),
        like=min(like, ALIKE),
    )


def _mean(cells: np.ndarray) -> np.ndarray:
    """Return the mean over heads; NaN in a cell that fewer than half of them have."""
    count = np.isfinite(cells).sum(0)
    return np.where(2 * count >= len(cells), np.nansum(cells, 0) / np.maximum(count, 1), np.nan)


def _others(cells: np.ndarray) -> list[np.ndarray]:
    """Return for each head the mean of all others."""
    total, count = np.nansum(cells, 0), np.isfinite(cells).sum(0)
    means = []
    for own in cells:
        left = count - np.isfinite(own)
        means.append(np.where(2 * left >= len(cells) - 1, (total - np.nan_to_num(own)) / np.maximum(left, 1), np.nan))
    return means


def _packed(cells: np.ndarray) -> str:
    coded = np.where(np.isfinite(cells), (cells * STEP).round().clip(0, UNKNOWN - 1), UNKNOWN)
    return base64.b64encode(coded.astype(np.uint8).tobytes()).decode()
