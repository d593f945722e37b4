"""Find the head in a scan: the input of the network is centred on it and normalised by it.

Otsu's threshold (1979) on a smoothed volume gives a first mask. It is generous, because a large bright lesion raises
that threshold above the brain. The final border is at a fixed level between the air close by and the tissue inside, so
it does not depend on the amount of air around the head, nor on the noise in it. Thin rims, such as a scalp, are left
out: a scan with a skull and one without it give nearly the same mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from components.scans.otsu import otsu_level

SMOOTHING_MM = 1.5
OPENING_MM = 6.0
"""Radius of the disc that fits into each part of the head, in its plane."""
NEAR_MM, FAR_MM = 4.0, 14.0
"""The air close by is at this distance from the mask."""
BORDER_MM = 4.0
"""The network sees the head with a border of this width around its mask: the edge of the brain."""
LEVEL = 0.4
"""The level of the border between the median of the air close by (0) and that of the head (1)."""
ROUNDS = 10
ROUNDING = 0.45
"""Radii are rounded to voxels, up from .55 on: a rounding error in a usual voxel size does not change the disc."""
UNKNOWN_PIXEL_MM = 1.8
"""Pixel size of a scan without a voxel size, until its head is found."""
HEAD_MM = 170.0
"""Length of a head in a scan without a voxel size."""
EDGE = 0.001
"""Share of the head beyond each edge that is ignored: a nose or a spike does not move the middle."""
LEAST_SHARE, MOST_SHARE = 0.002, 0.95
"""Shares of the volume. Outside them there is no head, or no air."""
LEAST_CONTRAST = 1.5
"""Median of the head minus that of the air close by, over the spread of both (`_contrast`)."""


@dataclass(frozen=True)
class Head:
    """The head in a scan (X, Y, S).

    mask: bool (X, Y, S), holes filled. found: False if no head is visible; the mask is then the whole volume.
    with_border: the mask, 4 mm wider; None if there is no border. sides_mm: sides of a voxel in the plane, mm.
    """

    mask: np.ndarray
    found: bool = True
    with_border: np.ndarray | None = None
    sides_mm: tuple[float, float] = (UNKNOWN_PIXEL_MM, UNKNOWN_PIXEL_MM)

    @property
    def seen(self) -> np.ndarray:
        """The part that the network sees: bool (X, Y, S)."""
        return self.mask if self.with_border is None else self.with_border

    def smooth_quartiles(self, volume: np.ndarray) -> list[float]:
        """Return the quartiles of the head in the smoothed scan (X, Y, S), which noise and sharpness hardly change."""
        return [float(v) for v in np.percentile(self.smoothed(volume)[self.mask], (25, 50, 75))]

    def smoothed(self, volume: np.ndarray) -> np.ndarray:
        """Return the scan (X, Y, S), smoothed in each plane by 1.5 mm."""
        return _smoothed(volume, *self.sides_mm)

    def without_border(self, width_mm: float) -> np.ndarray:
        """Return the mask without a border of `width_mm` in each plane."""
        return _morphed(cv2.erode, self.mask, width_mm, *self.sides_mm)

    def edges(self, axis: int) -> tuple[float, float]:
        """Return where the head begins and ends along an axis, in voxels, without 0.1 % of it at each end."""
        along = self.mask.sum(tuple(a for a in range(3) if a != axis))
        share = np.concatenate([[0], np.cumsum(along)]) / along.sum()
        low, high = np.interp([EDGE, 1 - EDGE], share, np.arange(len(share)) - 0.5)
        return float(low), float(high)

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The smallest box that holds the mask."""
        return ndimage.find_objects(self.mask.astype(np.uint8))[0]


def find_head(volume: np.ndarray, voxel_mm: tuple[float, float, float] | None) -> Head:
    """Return the head of a scan (X, Y, S).

    Without a voxel size it is found twice: with common pixels, and then with pixels that make it 170 mm long.
    """
    if voxel_mm:
        return _find(volume, float(voxel_mm[0]), float(voxel_mm[1]))
    head = _find(volume, UNKNOWN_PIXEL_MM, UNKNOWN_PIXEL_MM)
    if not head.found:
        return head
    side = HEAD_MM / max(high - low for low, high in (head.edges(0), head.edges(1)))
    return _find(volume, side, side)


def _find(volume: np.ndarray, x: float, y: float) -> Head:
    """Return the head of a scan with voxels of x times y mm in the plane."""
    smooth = _smoothed(volume, x, y)
    low, high = np.percentile(smooth, (1, 99.5))
    level = otsu_level(smooth.clip(low, high))
    dark = np.median(smooth[smooth <= level])
    mask = _part(smooth > dark + LEVEL * (level - dark), x, y)
    for _ in range(ROUNDS):
        if not mask.any():
            break
        air, tissue = (np.median(values) for values in _air_and_head(smooth, mask, x, y))
        before, mask = mask, _part(smooth > air + LEVEL * (tissue - air), x, y)
        if np.array_equal(before, mask):
            break
    mask = _filled(mask)
    whole = Head(np.ones(volume.shape, bool), found=False, sides_mm=(x, y))
    if not LEAST_SHARE < mask.mean() < MOST_SHARE:
        return whole
    head = Head(mask, with_border=_morphed(cv2.dilate, mask, BORDER_MM, x, y), sides_mm=(x, y))
    return head if _contrast(*_air_and_head(smooth, mask, x, y)) > LEAST_CONTRAST else whole


def _air_and_head(smooth: np.ndarray, mask: np.ndarray, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of the air close by and of the head; without air, the darkest value of the scan is used."""
    near = _morphed(cv2.dilate, mask, NEAR_MM, x, y)
    air = smooth[_morphed(cv2.dilate, mask, FAR_MM, x, y) & ~near]
    return air if air.size else smooth.min(keepdims=True), smooth[mask]


def _contrast(air: np.ndarray, tissue: np.ndarray) -> float:
    """Return the contrast of head and air. Only the spread below the head's median counts: a lesion widens the rest."""
    (low, air_median, high), (quarter, median) = np.percentile(air, (25, 50, 75)), np.percentile(tissue, (25, 50))
    return float((median - air_median) / max(high - low + 2 * (median - quarter), 1e-12))


def _part(bright: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return the largest connected part without thin rims."""
    opened = _morphed(cv2.dilate, _morphed(cv2.erode, bright, OPENING_MM, x, y), OPENING_MM, x, y) & bright
    parts, count = ndimage.label(opened)
    if not count:
        return opened
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def _filled(mask: np.ndarray) -> np.ndarray:
    """Return the mask with its holes filled in each plane: all that is not connected to the plane's border."""
    out = mask.copy()
    for s in np.flatnonzero(mask.any((0, 1))):
        outside, _ = ndimage.label(~mask[:, :, s])
        border = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
        out[:, :, s] = ~np.isin(outside, np.setdiff1d(border, [0]))
    return out


def _smoothed(volume: np.ndarray, x: float, y: float) -> np.ndarray:
    sigma = SMOOTHING_MM / x, SMOOTHING_MM / y
    return np.stack(
        [ndimage.gaussian_filter(volume[:, :, s], sigma, mode="nearest") for s in range(volume.shape[2])], -1
    )


def _morphed(operation: Callable[..., Any], mask: np.ndarray, radius_mm: float, x: float, y: float) -> np.ndarray:
    """Return the mask, dilated or eroded in each plane by a disc of this radius."""
    rows, columns = (2 * int(radius_mm / mm + ROUNDING) + 1 for mm in (x, y))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (columns, rows))
    return (
        np.stack([operation(np.ascontiguousarray(mask[:, :, s], np.uint8), disc) for s in range(mask.shape[2])], -1) > 0
    )
