"""Whole scans on the model grid and back where the whole plane is resized, as `baseline` does it."""

import numpy as np

from components.model.grid import (
    half,
    mask_plane_to_model,
    normalized_slices,
    plane_from_model,
    plane_to_model,
    scaled_adc,
)


def to_model_grid(volume: np.ndarray, image_size: int, normalization: str) -> np.ndarray:
    """Intensities (X, Y, S) to z-scores (S, image_size, image_size), float16; rows are Y, columns X."""
    return np.stack([half(plane_to_model(plane, image_size)) for plane in normalized_slices(volume, normalization)])


def adc_to_model_grid(adc: np.ndarray, image_size: int) -> np.ndarray:
    """ADC (X, Y, S) in 1e-3 mm²/s to (S, image_size, image_size), float16."""
    scaled = scaled_adc(adc)
    return np.stack([half(plane_to_model(_plane(scaled, s), image_size)) for s in range(adc.shape[2])])


def mask_to_model_grid(mask: np.ndarray, image_size: int) -> np.ndarray:
    """Lesion mask (X, Y, S) to (S, image_size, image_size), uint8."""
    return np.stack([mask_plane_to_model(_plane(mask, s), image_size) for s in range(mask.shape[2])])


def to_native_grid(probability: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Lesion probability (S, H, W) to the scan's (X, Y, S), float32."""
    return np.stack([plane_from_model(pixels, (shape[1], shape[0])).T for pixels in probability], axis=-1)


def _plane(volume: np.ndarray, s: int) -> np.ndarray:
    return np.ascontiguousarray(volume[:, :, s].T, dtype=np.float32)
