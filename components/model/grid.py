"""Normalise intensities, and resize whole planes to the model's square grid and back.

`placement` resizes in millimetres around the head. Preprocess, evaluate and the registered model use the same code.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch

from components.scans.head import Head

CHANNELS = {"dwi": ("dwi",), "dwi+adc": ("dwi", "adc")}
"""The setting `inputs` to the images that the network sees: three slices of each."""
HEALTHY_ADC, INFARCT_ADC, MOST_ADC = 0.8, 0.4, 3.5
"""1e-3 mm²/s."""
MOST_Z = 100.0
"""Largest z-score: half precision can store it, and tissue never reaches it."""
CLIP = 0.1, 99.99
"""Percentiles of the head. Values beyond are spikes; lesions of 0.2 mL and more are kept."""


def normalized_slices(volume: np.ndarray, normalization: str, head: Head | None = None) -> Iterator[np.ndarray]:
    """Yield the slices of a scan (X, Y, S) as z-scores (Y, X), float32.

    `normalization` "slice" uses mean and standard deviation of each slice, "volume" those of all voxels; a constant
    slice becomes 0. "head" uses median and interquartile range of the head, clips at percentiles of the head, and sets
    voxels outside of it to 0.

    Raises:
        ValueError: "head" without a head.
    """
    if normalization == "head":
        if head is None:
            raise ValueError("normalization head needs the head of the scan")
        yield from _head_slices(volume, head)
        return
    whole = _mean_std(volume.ravel(order="K")) if normalization == "volume" else None
    for s in range(volume.shape[2]):
        image = np.ascontiguousarray(volume[:, :, s].T, dtype=np.float32)
        mean, std = whole or _mean_std(image)
        yield (image - np.float32(mean)) * np.float32(1 / std) if std else np.zeros_like(image)


def plane_to_model(plane: np.ndarray, image_size: int) -> np.ndarray:
    """Resize a whole plane (Y, X) to (image_size, image_size)."""
    return _resize(plane, (image_size, image_size))


def half(image: np.ndarray) -> np.ndarray:
    """Round to float16; torch is fifty times as fast as numpy."""
    return torch.from_numpy(np.ascontiguousarray(image)).half().numpy()


def scaled_adc(adc: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Return an ADC map (X, Y, S) in 1e-3 mm²/s on a fixed scale, float32.

    The scale is the same for all scans: 0 is healthy grey and white matter, -1 a fresh infarct, 5.5 CSF. Larger values
    than those of free water are noise, and are clipped. Background is 0: voxels outside `inside` (the head, bool, if it
    is known), and voxels that are not above 0.
    """
    measured = adc > 0 if inside is None else (adc > 0) & inside
    scaled = (adc.clip(0, MOST_ADC) - HEALTHY_ADC) / (HEALTHY_ADC - INFARCT_ADC)
    return np.where(measured, scaled, 0).astype(np.float32)


def mask_plane_to_model(plane: np.ndarray, image_size: int) -> np.ndarray:
    """Resize a mask's whole plane (Y, X) to (image_size, image_size), uint8.

    A pixel is lesion if the voxel at its centre is; with pixels larger than voxels, if half of the pixel is.
    """
    size = (image_size, image_size)
    return (_nearest(_resize(plane, _smaller(plane, size)), size) >= 0.5).astype(np.uint8)


def plane_from_model(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize probabilities (H, W) of a whole plane to the scan's own grid (Y, X).

    With pixels smaller than voxels, a voxel gets the pixel at its centre, so a mask comes back exactly. An average of
    pixels would lose small lesions: for 256 -> 384 -> 256 those of a single voxel.
    """
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    return _resize(_nearest(pixels, _smaller(pixels, size)), size)


def neighbours(slice_numbers: list[int] | None, slices: int, channels: int = 1) -> np.ndarray:
    """Return the indices (previous, current, next) of each slice, int64 (S, 3); with more channels (S, 3 * channels).

    At the ends and beside a gap in the numbers, the slice itself replaces the missing neighbour. The slices of the
    second channel follow those of the first.
    """
    numbers = np.arange(slices) if slice_numbers is None else np.asarray(slice_numbers)
    current = np.arange(slices)
    joined = np.diff(numbers) == 1
    previous = current - np.concatenate([[False], joined])
    following = current + np.concatenate([joined, [False]])
    stack = np.stack([previous, current, following], axis=1)
    return np.concatenate([stack + channel * slices for channel in range(channels)], axis=1)


def _head_slices(volume: np.ndarray, head: Head) -> Iterator[np.ndarray]:
    low, high = (float(v) for v in np.percentile(volume[head.mask], CLIP))
    quarter, median, three_quarters = head.smooth_quartiles(volume)
    scale = three_quarters - quarter
    for s in range(volume.shape[2]):
        if not head.seen[:, :, s].any() or not scale > 1e-6 * abs(median):
            yield np.zeros(volume.shape[1::-1], np.float32)
            continue
        z = ((volume[:, :, s].clip(low, high) - np.float32(median)) / np.float32(scale)).clip(-MOST_Z, MOST_Z)
        yield np.ascontiguousarray(np.where(head.seen[:, :, s], z, 0).T, dtype=np.float32)


def _mean_std(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation; the latter is 0 if the values differ by rounding only."""
    mean, std = (float(v[0, 0]) for v in cv2.meanStdDev(np.atleast_2d(values)))
    return mean, std if std > 1e-6 * abs(mean) else 0.0


def _resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize: bilinear to a finer grid, area average (no aliasing) to a coarser one, which comes first."""
    if image.shape == shape:
        return image
    if (shape[0] - image.shape[0]) * (shape[1] - image.shape[1]) < 0:
        image = _resize(image, _smaller(image, shape))
    coarser = shape[0] < image.shape[0] or shape[1] < image.shape[1]
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA if coarser else cv2.INTER_LINEAR)


def _nearest(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Take for each new pixel the old pixel at its centre, in whole numbers, because OpenCV's rounding can miss it."""
    for axis, (old, new) in enumerate(zip(image.shape, shape, strict=True)):
        if new != old:
            image = image.take((2 * np.arange(new) + 1) * old // (2 * new), axis)
    return image


def _smaller(image: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape of the coarser grid on each axis."""
    return min(image.shape[0], shape[0]), min(image.shape[1], shape[1])
