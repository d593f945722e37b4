"""Otsu's threshold between the air and the head of a scan."""

import cv2
import numpy as np


def otsu_level(volume: np.ndarray) -> float:
    """Return the intensity that separates the dark values of a volume, the air, from its bright ones (Otsu 1979)."""
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        return high
    grey = ((volume - low) * (255 / (high - low))).astype(np.uint8).reshape(len(volume), -1)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    return low + (level + 1) * (high - low) / 255
