"""From a scan's own in-plane grid to the model's square one, and back.

The only place where intensities are normalised and slices resized: preprocess, evaluate and the
registered model all call it, so what was tested is what predicts.
"""

import cv2
import numpy as np


def to_model_grid(volume: np.ndarray, image_size: int, normalization: str) -> np.ndarray:
    """Intensities (X, Y, S) to z-scores (S, image_size, image_size), float16.

    `normalization` "slice" takes mean and standard deviation of each slice, "volume" those of all voxels.
    A constant slice becomes zero.
    """
    if normalization == "volume":
        volume = _z_score(volume)
    out = np.empty((volume.shape[2], image_size, image_size), np.float16)
    for s in range(volume.shape[2]):
        image = np.ascontiguousarray(volume[:, :, s], dtype=np.float32)
        if normalization == "slice":
            image = _z_score(image)
        out[s] = _resize(image, (image_size, image_size))
    return out


def mask_to_model_grid(mask: np.ndarray, image_size: int) -> np.ndarray:
    """Lesion mask (X, Y, S) to (S, image_size, image_size), uint8: lesion where at least half of the pixel is."""
    slices = (_resize(mask[:, :, s].astype(np.float32), (image_size, image_size)) for s in range(mask.shape[2]))
    return np.stack([(image >= 0.5).astype(np.uint8) for image in slices])


def to_native_grid(probability: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Lesion probability (S, H, W) on the model grid to the scan's (X, Y, S), float32."""
    out = np.empty(shape, np.float32)
    for s in range(shape[2]):
        out[:, :, s] = _resize(np.ascontiguousarray(probability[s], dtype=np.float32), shape[:2])
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


def _z_score(values: np.ndarray) -> np.ndarray:
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if std <= 1e-6 * max(abs(mean), 1e-30):
        return np.zeros_like(values, dtype=np.float32)
    return ((values - mean) / std).astype(np.float32)


def _resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear where pixels get smaller, area average where they get larger (no aliasing)."""
    if image.shape == shape:
        return image
    shrinks = shape[0] * shape[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
