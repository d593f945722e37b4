"""From a scan's own in-plane grid to the model's square one, and back.

The only place where intensities are normalised and slices resized: preprocess, evaluate and the
registered model all call it, so what was tested is what predicts.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch


def to_model_grid(volume: np.ndarray, image_size: int, normalization: str) -> np.ndarray:
    """Intensities (X, Y, S) to z-scores (S, image_size, image_size), float16; rows are Y, columns X.

    `normalization` "slice" takes mean and standard deviation of each slice, "volume" those of all voxels.
    A constant slice becomes zero.
    """
    return np.stack(list(model_grid_slices(volume, image_size, normalization)))


def model_grid_slices(volume: np.ndarray, image_size: int, normalization: str) -> Iterator[np.ndarray]:
    """The slices of `to_model_grid`, one after the other."""
    whole = _mean_std(volume.ravel(order="K")) if normalization == "volume" else None
    for s in range(volume.shape[2]):
        image = np.ascontiguousarray(volume[:, :, s].T, dtype=np.float32)
        mean, std = whole or _mean_std(image)
        z = (image - np.float32(mean)) * np.float32(1 / std) if std else np.zeros_like(image)
        # torch rounds to float16 fifty times as fast as numpy
        yield torch.from_numpy(_resize(z, (image_size, image_size))).half().numpy()


def mask_to_model_grid(mask: np.ndarray, image_size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Lesion mask (X, Y, S) to (S, image_size, image_size), uint8.

    Lesion where the voxel at the pixel's centre is; where pixels are larger than voxels, where half of the pixel is.
    Written to `out`, which must be zero, where it is given.
    """
    if out is None:
        out = np.zeros((mask.shape[2], image_size, image_size), np.uint8)
    for s in np.flatnonzero(mask.any((0, 1))):
        image = np.ascontiguousarray(mask[:, :, s].T, dtype=np.float32)
        out[s] = _resize(image, (image_size, image_size), finer=_nearest) >= 0.5
    return out


def to_native_grid(probability: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Lesion probability (S, H, W) on the model grid to the scan's (X, Y, S), float32.

    A voxel takes the pixel at its centre where pixels are smaller, so a mask comes home exactly. An average of
    pixels would lose small lesions: at 256 -> 384 -> 256 one of a single voxel.
    """
    out = np.empty(shape, np.float32, order="F")
    for s in range(shape[2]):
        pixels = np.ascontiguousarray(probability[s], dtype=np.float32)
        out[:, :, s] = _resize(pixels, (shape[1], shape[0]), coarser=_nearest).T
    return out


def neighbours(slice_numbers: list[int] | None, slices: int) -> np.ndarray:
    """For each slice the indices (previous, current, next), int64 (S, 3).

    The edge slice stands in for a neighbour that is not there, at the ends and beside a gap in the numbering.
    """
    numbers = np.arange(slices) if slice_numbers is None else np.asarray(slice_numbers)
    current = np.arange(slices)
    joined = np.diff(numbers) == 1
    previous = current - np.concatenate([[False], joined])
    following = current + np.concatenate([joined, [False]])
    return np.stack([previous, current, following], axis=1)


def _mean_std(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; the latter 0 where the values differ by rounding only."""
    mean, std = (float(v[0, 0]) for v in cv2.meanStdDev(np.atleast_2d(values)))
    return mean, std if std > 1e-6 * abs(mean) else 0.0


def _linear(image: np.ndarray, axis: int, size: int) -> np.ndarray:
    return cv2.resize(image, _width_and_height(image, axis, size), interpolation=cv2.INTER_LINEAR)


def _area(image: np.ndarray, axis: int, size: int) -> np.ndarray:
    return cv2.resize(image, _width_and_height(image, axis, size), interpolation=cv2.INTER_AREA)


def _nearest(image: np.ndarray, axis: int, size: int) -> np.ndarray:
    """For each new pixel the old one that its centre lies in, in whole numbers: OpenCV's rounding can miss it."""
    return image.take((2 * np.arange(size) + 1) * image.shape[axis] // (2 * size), axis)


def _width_and_height(image: np.ndarray, axis: int, size: int) -> tuple[int, int]:
    return (image.shape[1], size) if axis == 0 else (size, image.shape[0])


def _resize(image: np.ndarray, shape: tuple[int, int], finer=_linear, coarser=_area) -> np.ndarray:
    """Each axis by itself: `finer` where its pixels get smaller, `coarser` where they get larger (no aliasing)."""
    for axis, size in enumerate(shape):
        if size != image.shape[axis]:
            image = (finer if size > image.shape[axis] else coarser)(image, axis, size)
    return image
