"""The position of the model's square grid on a scan: the whole plane, or in millimetres around the head."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np

from components.model.grid import (
    half,
    mask_plane_to_model,
    normalized_slices,
    plane_from_model,
    plane_to_model,
    scaled_adc,
)
from components.model.threshold_rule import UNKNOWN_SLICE_MM
from components.scans.head import HEAD_MM, UNKNOWN_PIXEL_MM, Head, find_head
from components.scans.left_right import left_right_axis

REACH = 1.5
"""Reach of a pixel's weights, in pixels. With sharper pixels, resampled scans would look different from others."""
NEARLY = 0.01
"""Share by which pixels may be larger than voxels and count as equal."""


@dataclass(frozen=True)
class Placement:
    """The position of the model grid on a scan.

    shape: of the scan (X, Y, S). size: pixels along a side of the grid. centre, step: middle of the grid and distance
    between pixels, along X and Y, in voxels; None if the whole plane is resized. swapped: the grid's columns follow Y,
    the left-right axis of this scan. first, stop: the slices that the network sees. shrunk: below 1 if the head was
    scaled down to fit.
    """

    shape: tuple[int, int, int]
    size: int
    centre: tuple[float, float] | None = None
    step: tuple[float, float] | None = None
    swapped: bool = False
    first: int = 0
    stop: int = 0
    shrunk: float = 1.0

    @property
    def slices(self) -> int:
        """Number of slices that the network sees."""
        return self.stop - self.first

    @property
    def voxels_per_pixel(self) -> float:
        """Number of voxels of the scan in a pixel."""
        if self.step is None:
            return self.shape[0] * self.shape[1] / self.size**2
        return self.step[0] * self.step[1]

    def image(self, plane_YX: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """Return a plane (Y, X) on the grid (size, size), float32, with the value `outside` beyond the scan."""
        if self.centre is None:
            return plane_to_model(plane_YX, self.size)
        rows, columns = (self._weights(axis, REACH) for axis in (1, 0))
        out = rows @ (plane_YX - np.float32(outside)) @ columns.T + np.float32(outside)
        return out.T if self.swapped else out

    def mask(self, mask_XYS: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return a lesion mask (X, Y, S) on the grid, (slices, size, size), uint8, written into `out` (zeros) if given.

        A pixel is lesion if the voxel at its centre is; with pixels larger than voxels, if half of the pixel is.
        """
        out = np.zeros((self.slices, self.size, self.size), np.uint8) if out is None else out
        for s in np.flatnonzero(mask_XYS[:, :, self.first : self.stop].any((0, 1))):
            plane_YX = np.ascontiguousarray(mask_XYS[:, :, self.first + s].T, dtype=np.float32)
            if self.centre is None:
                out[s] = mask_plane_to_model(plane_YX, self.size)
            else:
                rows, columns = (self._nearest_or_weights(axis) for axis in (1, 0))
                lesion = rows @ plane_YX @ columns.T >= 0.5
                out[s] = lesion.T if self.swapped else lesion
        return out

    def home(self, probability: np.ndarray) -> np.ndarray:
        """Lesion probability (slices, size, size) on the scan's own grid (X, Y, S), float32; 0 beyond the grid.

        A voxel takes what lies between the pixels around its centre. So a mask comes home exactly where pixels are at
        most half as large as voxels, and a tiny shift of the grid makes a tiny change.
        """
        out = np.zeros(self.shape, np.float32, order="F")
        if self.centre is not None:
            rows, columns = (self._home_weights(axis) for axis in (1, 0))
        for s, pixels in enumerate(probability):
            pixels = np.ascontiguousarray(pixels, dtype=np.float32)
            if self.centre is None:
                out[:, :, self.first + s] = plane_from_model(pixels, (self.shape[1], self.shape[0])).T
            else:
                out[:, :, self.first + s] = (rows @ (pixels.T if self.swapped else pixels) @ columns.T).T
        return out

    def as_dict(self) -> dict:
        """Return the fields, as `index.json` holds them."""
        return asdict(self)

    def _positions(self, axis: int) -> np.ndarray:
        """Return the position of each pixel's centre, in voxels."""
        centre, step = self._centre_step(axis)
        return centre + (np.arange(self.size) - (self.size - 1) / 2) * step

    def _centre_step(self, axis: int) -> tuple[float, float]:
        if self.centre is None or self.step is None:
            raise ValueError("the whole plane has no centre and step")
        return self.centre[axis], self.step[axis]

    def _weights(self, axis: int, reach: float) -> np.ndarray:
        """Return the weight of each voxel (columns) in each pixel (rows): linear, over `reach` pixels or one voxel.

        A row sums to less than 1 if its pixel reaches beyond the scan.
        """
        return _tent(self._positions(axis), self.shape[axis], max(1.0, reach * self._centre_step(axis)[1]))

    def _nearest_or_weights(self, axis: int) -> np.ndarray:
        if self._centre_step(axis)[1] > 1 + NEARLY:
            return self._weights(axis, 1)
        return _pick(np.ceil(self._positions(axis) - 0.5), self.shape[axis])

    def _home_weights(self, axis: int) -> np.ndarray:
        """Return the weight of each pixel (columns) in each voxel (rows)."""
        voxels = np.arange(self.shape[axis])
        centre, step = self._centre_step(axis)
        at = (voxels - centre) / step + (self.size - 1) / 2
        return _tent(at, self.size, 1.0)


def place(
    volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, size: int, pixel_mm: float, head: Head | None
) -> Placement:
    """Return the position of a grid of `size` pixels on a scan (X, Y, S).

    pixel_mm: side of a pixel; 0 resizes the whole plane, and needs no head. Without a voxel size, the head is taken as
    170 mm long, and its axis of symmetry as left-right.

    Raises:
        ValueError: pixel_mm without a head.
    """
    x, y, slices = (int(n) for n in volume.shape)
    shape = (x, y, slices)
    if not pixel_mm:
        return Placement(shape, size, stop=slices)
    if head is None:
        raise ValueError("pixel_mm needs the head of the scan")
    edges = [head.edges(axis) for axis in (0, 1)]
    centre_x, centre_y = ((low + high) / 2 for low, high in edges)
    extents = tuple(high - low for low, high in edges)
    mm = voxel_mm[:2] if voxel_mm else (HEAD_MM / max(extents),) * 2
    shrunk = min(1.0, size * pixel_mm / max(extent * side for extent, side in zip(extents, mm, strict=True)))
    shown = np.flatnonzero(head.mask.any((0, 1)))
    return Placement(
        shape, size, (centre_x, centre_y), (pixel_mm / shrunk / mm[0], pixel_mm / shrunk / mm[1]),
        swapped=voxel_mm is None and head.found and left_right_axis(head.mask) == 1,
        first=int(shown[0]), stop=int(shown[-1]) + 1, shrunk=shrunk,
    )  # fmt: skip


def voxel_ml(voxel_mm: tuple[float, float, float] | None) -> float:
    """Return the volume of a voxel in mL; without a voxel size that of 1.8 x 1.8 x 5 mm."""
    return float(np.prod(voxel_mm or (UNKNOWN_PIXEL_MM, UNKNOWN_PIXEL_MM, UNKNOWN_SLICE_MM))) / 1000


def head_for(
    volume: np.ndarray,
    voxel_mm: tuple[float, float, float] | None,
    normalization: str,
    pixel_mm: float,
    known: Head | None = None,
) -> Head | None:
    """Return the head of a scan (X, Y, S) if a model with these settings needs it; else None.

    `known` is the head if it was found before.
    """
    if not pixel_mm and normalization != "head":
        return None
    return known or find_head(volume, voxel_mm)


def image_slices(
    volume: np.ndarray, placement: Placement, normalization: str, head: Head | None
) -> Iterator[np.ndarray]:
    """Yield the slices of a scan (X, Y, S) as the network sees them: (size, size), float16."""
    planes = islice(normalized_slices(volume, normalization, head), placement.first, placement.stop)
    for plane in planes:
        yield half(placement.image(plane, 0.0 if normalization == "head" else float(plane.min())))


def adc_slices(adc: np.ndarray, placement: Placement, head: Head | None) -> Iterator[np.ndarray]:
    """Yield the slices of its ADC map (X, Y, S), in 1e-3 mm²/s, as the network sees them."""
    scaled = scaled_adc(adc, None if head is None else head.seen)
    for s in range(placement.first, placement.stop):
        yield half(placement.image(np.ascontiguousarray(scaled[:, :, s].T)))


def _tent(positions: np.ndarray, length: int, reach: float) -> np.ndarray:
    """Return linear weights (positions, length), float32, that sum to 1 on a line without ends."""
    near = np.abs(positions[:, None] - np.arange(length)) / reach
    around = np.arange(-int(reach) - 1, int(reach) + 2)
    whole = np.maximum(0, 1 - np.abs((positions - np.round(positions))[:, None] - around) / reach).sum(1, keepdims=True)
    return (np.maximum(0, 1 - near) / whole).astype(np.float32)


def _pick(indices: np.ndarray, length: int) -> np.ndarray:
    """Return weights with 1 at each index (rows), 0 if it is beyond the length."""
    return (indices[:, None] == np.arange(length)).astype(np.float32)
