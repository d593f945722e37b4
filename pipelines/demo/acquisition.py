"""From tissue to image: the grid, distortion and coil of a scanner, its noise, and interpolation in the plane."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from pipelines.demo.anatomy import template

THINNEST_SUBSLICE_MM = 2.0
SOURCES_MM = (
    ((0, 42, -32), 12.0), ((14, 54, -20), 9.0), ((22, 40, -22), 6.0), ((8, 66, -10), 6.0), ((0, 12, -34), 9.0),
    ((26, -18, -34), 5.0), ((38, -22, -31), 6.0), ((48, -26, -28), 6.0), ((56, -30, -24), 6.0), ((50, -8, -36), 7.0),
    ((38, -44, -42), 7.0), ((34, 8, -42), 6.0),
)  # fmt: skip
"""Air that disturbs the field: sinuses, ear canals, mastoids: centre (|x|, y, z) in MNI mm, and reach."""


@dataclass(frozen=True)
class Grid:
    """A scan's grid in the plane as acquired, and as interpolated; its first voxels share a centre.

    affine: of the interpolated grid, to RAS mm about the middle of the head. shape: as interpolated.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    acquired: tuple[int, int]
    acquired_mm: tuple[float, float]
    slice_mm: float

    @property
    def subslices(self) -> int:
        return max(1, round(self.slice_mm / THINNEST_SUBSLICE_MM))

    @property
    def points(self) -> tuple[int, int, int]:
        """Shape of the points at which tissue is looked up: the acquired plane, and slices in parts."""
        return *self.acquired, self.shape[2] * self.subslices

    @property
    def points_mm(self) -> tuple[float, float, float]:
        return *self.acquired_mm, self.slice_mm / self.subslices

    def points_to_mm(self) -> np.ndarray:
        """Affine (4, 4) from points to RAS mm."""
        steps = [a / v for a, v in zip(self.acquired_mm, np.linalg.norm(self.affine[:3, :2], axis=0), strict=True)]
        scale = np.diag([*steps, 1 / self.subslices, 1])
        scale[2, 3] = 0.5 / self.subslices - 0.5
        return self.affine @ scale

    def slices(self, points: np.ndarray) -> np.ndarray:
        """Return the mean of the parts of each slice (X, Y, S)."""
        points = points.reshape(self.points)
        total = sum(points[:, :, part :: self.subslices] for part in range(self.subslices))
        return np.asarray(total / np.float32(self.subslices))

    def interpolated(self, volume: np.ndarray) -> np.ndarray:
        """A smooth volume (X, Y, S) as acquired, interpolated linearly in the plane."""
        if self.acquired == self.shape[:2]:
            return volume
        return _in_plane(volume, *(_linear(n, m) for n, m in zip(self.acquired, self.shape[:2], strict=True)))

    def reconstructed(self, volume: np.ndarray, sharpness: float) -> np.ndarray:
        """A volume (X, Y, S) as acquired, filtered and filled with zeros in k-space."""
        kernels = (_k_space(n, m, sharpness) for n, m in zip(self.acquired, self.shape[:2], strict=True))
        return _in_plane(volume, *kernels)


def _in_plane(volume: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.tensordot(np.tensordot(x, volume, 1), y, (1, 1)).transpose(0, 2, 1)


@lru_cache(maxsize=64)
def _linear(acquired: int, interpolated: int) -> np.ndarray:
    at = np.arange(interpolated) * acquired / interpolated
    return np.clip(1 - np.abs(at[:, None] - np.arange(acquired)), 0, 1).astype(np.float32)


def _k_space(acquired: int, interpolated: int, sharpness: float) -> np.ndarray:
    """Matrix (interpolated, acquired) that filters k-space with a Gaussian and fills it with zeros.

    sharpness: what is left of the highest frequency.
    """
    frequency = np.fft.fftfreq(acquired)
    kept = np.exp(np.log(sharpness) * (2 * frequency) ** 2)
    there = np.exp(2j * np.pi * np.outer(np.arange(interpolated) / interpolated, frequency * acquired))
    here = np.exp(-2j * np.pi * np.outer(frequency, np.arange(acquired)))
    return ((there * kept) @ here / acquired).real.astype(np.float32)


def rotation(degrees_xyz: np.ndarray | list[float]) -> np.ndarray:
    return Rotation.from_euler("xyz", degrees_xyz, degrees=True).as_matrix()


def draw_grid(rng: np.random.Generator, draw: dict[str, float]) -> Grid:
    """Draw affine (RAS or LAS, half of them oblique) and shape of a grid around the head."""
    acquired_mm, slice_mm = draw["acquired_mm"], draw["slice_mm"]
    rows = 2 * round(draw["field_mm"] / acquired_mm / 2)
    columns = rows if rng.random() < 0.6 else rows - 2 * int(rng.integers(1, 8))
    zero_fill = draw["zero_fill"]
    shape = (round(columns * zero_fill), round(rows * zero_fill), round(draw["coverage_mm"] / slice_mm))
    voxel_mm = [acquired_mm * columns / shape[0], acquired_mm * rows / shape[1], slice_mm]
    oblique = rotation(rng.uniform([-10, -2, -3], [10, 2, 3])) if rng.random() < 0.5 else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = oblique * voxel_mm * [rng.choice([-1, 1]), 1, 1]
    affine[:3, 3] = rng.uniform(-4, 4, 3) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(affine, shape, (columns, rows), (acquired_mm, acquired_mm), slice_mm)


def distorted(
    rng: np.random.Generator, grid: Grid, voxels: np.ndarray, near: np.ndarray, along: np.ndarray, most_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shift the points `near` along the plane's second axis, as air in the skull does.

    voxels: of the template (3, points). along: what a millimetre along that axis is in template voxels. Returns the
    shifted ones of `near`, and how signal piles up there.
    """
    brain = template()
    shift: Any = 0
    sign = rng.choice([-1, 1])
    for centre, reach_mm in SOURCES_MM:
        height = most_mm * rng.uniform(0.4, 1.2) * max(1.0, reach_mm / 8)
        for x in (-1, 1) if centre[0] else (1,):
            place, reach = np.array(centre) * [x, 1, 1] + rng.normal(0, 3, 3), reach_mm * rng.uniform(0.7, 1.2)
            shift = shift + np.float32(rng.uniform(0.6, 1.2) * height) * brain.bump(place, reach)
    shift_mm = np.zeros(voxels.shape[1], np.float32)
    shift_mm[near] = np.float32(sign) * brain.sampler(shift[:, None], voxels[:, near])[:, 0]
    steeper: Any = np.gradient(shift_mm.reshape(grid.points), np.float32(grid.acquired_mm[1]), axis=1)
    return voxels[:, near] + along.astype(np.float32)[:, None] * shift_mm[near], (1 + steeper).clip(0, 4).ravel()[near]


def coil_bias(rng: np.random.Generator, shape: tuple[int, ...], most: float) -> np.ndarray:
    """A smooth gain, brighter toward the coil: of second order in each axis."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    return np.exp(sum(rng.uniform(-most, most) * x + rng.uniform(-0.3 * most, 1.5 * most) * x**2 for x in axes))
