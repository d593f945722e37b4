"""Smooth random fields and linear interpolation, fast enough for a scan in half a second."""

from functools import lru_cache
from typing import Any

import numpy as np


class Sampler:
    """Linear interpolation of volumes of one shape, many at once: rows are voxels, columns are volumes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.strides = (shape[1] * shape[2], shape[2], 1)

    def nearest(self, values: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        """Values (points) of the voxels nearest to `voxels` (3, points)."""
        index = 0
        for axis in range(3):
            at = np.clip(voxels[axis] + np.float32(0.5), 0, self.shape[axis] - 1).astype(np.int32)
            index = index + at * self.strides[axis]
        return values[index]

    def __call__(self, rows: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        """Values (points, volumes) of `rows` (voxels, volumes) at `voxels` (3, points); those of the border beyond."""
        index, weights = 0, []
        for axis in range(3):
            at = np.clip(voxels[axis], 0, self.shape[axis] - 1.001)
            low = at.astype(np.int32)
            upper = at - low
            weights.append((1 - upper, upper))
            index = index + low * self.strides[axis]
        out: Any = None
        for x, y in ((0, 0), (0, 1), (1, 0), (1, 1)):
            plane = weights[0][x] * weights[1][y]
            for z in (0, 1):
                offset = x * self.strides[0] + y * self.strides[1] + z
                part = np.take(rows, index + offset, axis=0, mode="clip")
                part *= (plane * weights[2][z])[:, None]
                out = part if out is None else np.add(out, part, out=out)
        return out


@lru_cache(maxsize=256)
def _spline(points: int, step: float) -> np.ndarray:
    """Cubic B-spline weights (points, controls) of points that lie `step` controls apart."""
    at = np.arange(points) * step + 1
    controls = int(at[-1]) + 3
    away = np.abs(at[:, None] - np.arange(controls))
    near, far = 2 / 3 - away**2 + away**3 / 2, np.clip(2 - away, 0, None) ** 3 / 6
    return np.where(away < 1, near, far).astype(np.float32)


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, ...], mm: tuple[float, ...], scale_mm: float
) -> np.ndarray:
    """Return a random field (of a shape, with voxels of so many mm) that varies over some `scale_mm`, of unit spread.

    It is a cubic B-spline whose controls are independent and lie `scale_mm` apart.
    """
    weights = [_spline(n, min(side / scale_mm, 1.0)) for n, side in zip(shape, mm, strict=True)]
    field = rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32)
    for w in weights:
        field = np.tensordot(field, w, (0, 1))
    return field / max(float(field.std()), 1e-6)
