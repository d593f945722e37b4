"""Where the head is in a scan: what the network sees is centred on it and measured against it.

Otsu's threshold (1979) on a smoothed volume gives a first mask, a generous one, for a large bright lesion draws that
threshold up above the brain. The final border lies at a fixed level between the
air close by and the tissue inside, so it does not depend on how much air is around the head, nor on what the air holds.
Thin rims, such as a scalp, are left out: a scan with a skull and one without give nearly the same mask.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from components.scans.otsu import otsu_level

SMOOTHING_MM = 1.5
OPENING_MM = 6.0
"""Radius of the disc that a part of the head must hold in its plane."""
NEAR_MM, FAR_MM = 4.0, 14.0
"""Air close by: so far outside the mask."""
BORDER_MM = 4.0
"""How much wider than its mask the head is shown to the network: its edge and what lies on it."""
LEVEL = 0.4
"""Where the border lies between the median of the air close by (0) and that of the head (1)."""
ROUNDS = 10
ROUNDING = 0.45
"""Radii are rounded to voxels, up from .55 on: a rounding error in a usual voxel size then makes no other disc."""
UNKNOWN_PIXEL_MM = 1.8
"""Taken for a scan without a voxel size, until its head is found."""
HEAD_MM = 170.0
"""Length of a head, taken where a file has no voxel size."""
EDGE = 0.001
"""Share of the head beyond each edge that counts for nothing: a nose or a spike does not move the middle."""
LEAST_SHARE, MOST_SHARE = 0.002, 0.95
"""Of the volume. Beyond these there is no head, or no air."""
LEAST_CONTRAST = 1.5
"""Median of the head less that of the air close by, over the spread of both (`_contrast`)."""


@dataclass(frozen=True)
class Head:
    """The head in a scan (X, Y, S).

    mask: bool (X, Y, S), holes filled. found: False where no head stands out; the mask is then the whole volume. seen:
    what is shown of it to the network, 4 mm wider; the mask itself where nothing else is given. sides_mm: of a voxel in
    the plane, mm.
    """

    mask: np.ndarray
    found: bool = True
    seen: np.ndarray | None = None
    sides_mm: tuple[float, float] = (UNKNOWN_PIXEL_MM, UNKNOWN_PIXEL_MM)

    def __post_init__(self):
        if self.seen is None:
            object.__setattr__(self, "seen", self.mask)

    def smooth_quartiles(self, volume: np.ndarray) -> list[float]:
        """Quartiles of the head in a scan (X, Y, S) that is smoothed, so that noise and sharpness hardly count."""
        return [float(v) for v in np.percentile(self.smoothed(volume)[self.mask], (25, 50, 75))]

    def smoothed(self, volume: np.ndarray) -> np.ndarray:
        """The scan (X, Y, S), smoothed in each plane by 1.5 mm."""
        return _smoothed(volume, *self.sides_mm)

    def without_border(self, width_mm: float) -> np.ndarray:
        """The mask without the outermost millimetres in each plane."""
        return _morphed(cv2.erode, self.mask, width_mm, *self.sides_mm)

    def edges(self, axis: int) -> tuple[float, float]:
        """Where the head begins and ends along an axis, in voxels, without the outermost 0.1 % on either side."""
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

    Without a voxel size it is found twice: first with common pixels, then with those that make it 170 mm long.
    """
    if voxel_mm:
        return _find(volume, float(voxel_mm[0]), float(voxel_mm[1]))
    head = _find(volume, UNKNOWN_PIXEL_MM, UNKNOWN_PIXEL_MM)
    if not head.found:
        return head
    side = HEAD_MM / max(high - low for low, high in (head.edges(0), head.edges(1)))
    return _find(volume, side, side)


def _find(volume: np.ndarray, x: float, y: float) -> Head:
    """The head, with voxels of x times y mm in the plane."""
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
    head = Head(mask, seen=_morphed(cv2.dilate, mask, BORDER_MM, x, y), sides_mm=(x, y))
    return head if _contrast(*_air_and_head(smooth, mask, x, y)) > LEAST_CONTRAST else whole


def _air_and_head(smooth: np.ndarray, mask: np.ndarray, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of the air close by, and of the head; where no air is left, the darkest value stands for it."""
    near = _morphed(cv2.dilate, mask, NEAR_MM, x, y)
    air = smooth[_morphed(cv2.dilate, mask, FAR_MM, x, y) & ~near]
    return air if air.size else smooth.min(keepdims=True), smooth[mask]


def _contrast(air: np.ndarray, tissue: np.ndarray) -> float:
    """Of the head the spread below its median counts: a large lesion makes it wide above."""
    (low, air_median, high), (quarter, median) = np.percentile(air, (25, 50, 75)), np.percentile(tissue, (25, 50))
    return float((median - air_median) / max(high - low + 2 * (median - quarter), 1e-12))


def _part(bright: np.ndarray, x: float, y: float) -> np.ndarray:
    """The largest connected part that is nowhere a thin rim."""
    opened = _morphed(cv2.dilate, _morphed(cv2.erode, bright, OPENING_MM, x, y), OPENING_MM, x, y) & bright
    parts, count = ndimage.label(opened)
    if not count:
        return opened
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask with the holes in each plane: what is not connected to the plane's border."""
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


def _morphed(operation, mask: np.ndarray, radius_mm: float, x: float, y: float) -> np.ndarray:
    """The mask dilated or eroded in each plane by a disc, in mm."""
    rows, columns = (2 * int(radius_mm / mm + ROUNDING) + 1 for mm in (x, y))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (columns, rows))
    return (
        np.stack([operation(np.ascontiguousarray(mask[:, :, s], np.uint8), disc) for s in range(mask.shape[2])], -1) > 0
    )
