"""Recognise ADC maps and b0 images that come as a DWI, from their intensities.

There are two signs, and each needs both of its numbers. In a DWI, fluid and air are dark.

- Fluid is brightest: in the smoothed head without its border, the upper tail of the intensities is long, and longer
  than the lower one. Only intensities that both sides share count, so that a lesion on one side does not.
- Air is noise: the ADC of air is the logarithm of noise over noise, as large as that of tissue and noisier.

Measured on 5 real scans and 24 scans of an earlier demo, as tail, and tail over tail (the limits are 1.55 and 1.6):
DWI at most 1.38 and 1.03; DWI computed for b = 500 s/mm² at most 1.45 and 1.26; ADC maps without air at least 1.69 and
4.4; b0 images 1.49 to 3.1 and 1.3 to 3.0, of which 28 of 31 are recognised. In today's demo no DWI is above 1.42 and
0.89, and all 24 ADC maps are recognised. Noise of the corners over that of the middle, and over its level (limits 1.5
and 0.2): DWI at most 0.86 and 0.06, ADC maps with air at least 2.8 and 0.63.
"""

import numpy as np

from components.scans.geometry import BadVolume
from components.scans.head import Head
from components.scans.left_right import left_right_axis

BORDER_MM, LEAST_VOXELS = 10.0, 500
TAIL_PERCENT = 2
LEAST_TAIL, LEAST_TAIL_OVER_TAIL = 1.55, 1.6
"""Upper tail over the median; its logarithm over that of the lower tail, which gamma and scaling do not change."""
CORNER, LEAST_SIDE = 8, 48
"""A corner is an eighth of each side; in a smaller plane the corners are too small to measure."""
LEAST_NOISE, LEAST_LEVEL = 1.5, 0.2
"""Noise of the corners: over the noise of the middle, and over its median."""


def other_modality(volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, head: Head) -> str:
    """Return why a scan (X, Y, S) is not a DWI; "" if it may be one."""
    noise, level = corner_noise(volume)
    if noise >= LEAST_NOISE and level >= LEAST_LEVEL:
        return (
            f"it looks like an ADC map, not a DWI: the air is {noise:.1f} times as noisy as the middle of the scan "
            f"(at least {LEAST_NOISE:g} is taken for an ADC map)"
        )
    tail, over_tail = bright_tail(volume, voxel_mm, head)
    if tail >= LEAST_TAIL and over_tail >= LEAST_TAIL_OVER_TAIL:
        return (
            f"it looks like an ADC map or a b0 image, not a DWI: fluid seems brightest, because on both sides the "
            f"brightest {TAIL_PERCENT} % are at least {tail:.1f} times the median (in a DWI fluid is dark)"
        )
    return ""


def require_dwi(
    volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, head: Head, how_to_insist: str
) -> None:
    """Check that a scan (X, Y, S) may be a DWI; `how_to_insist` ends the message.

    Raises:
        BadVolume: its intensities are those of an ADC map or a b0 image.
    """
    if reason := other_modality(volume, voxel_mm, head):
        raise BadVolume(f"{reason}. {how_to_insist}")


def bright_tail(volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, head: Head) -> tuple[float, float]:
    """Return the upper tail over the median, and its logarithm over that of the lower tail; 1 and 1 without a head."""
    if not head.found:
        return 1.0, 1.0
    axis = left_right_axis(head.mask) if voxel_mm is None else 0
    mirror = np.rint(sum(head.edges(axis)) - np.arange(volume.shape[axis])).astype(int)
    mirror = mirror.clip(0, volume.shape[axis] - 1)
    smooth, core = head.smoothed(volume), head.without_border(BORDER_MM)
    both = core & core.take(mirror, axis)
    if both.sum() < LEAST_VOXELS:
        return 1.0, 1.0
    here, there = smooth[both], smooth.take(mirror, axis)[both]
    low, median = np.percentile(np.maximum(here, there), TAIL_PERCENT), np.median(here)
    high = np.percentile(np.minimum(here, there), 100 - TAIL_PERCENT)
    if not (0 < median < high and low < median):
        return 1.0, 1.0
    lower = np.log(median / low) if low > 0 else np.inf
    return float(high / median), float(np.log(high / median) / lower)


def corner_noise(volume: np.ndarray) -> tuple[float, float]:
    """Return the noise of the plane's corners over that of its middle, and over the median there; 0 and 0 if unknown.

    Noise is the median of the second differences from pixel to pixel.
    """
    x, y, _ = volume.shape
    if min(x, y) < LEAST_SIDE:
        return 0.0, 0.0
    middle = volume[x // 4 : -(x // 4), y // 4 : -(y // 4)]
    sides = [(slice(n // CORNER), slice(-(n // CORNER), None)) for n in (x, y)]
    corners = float(np.median(np.concatenate([_differences(volume[i, j]) for i in sides[0] for j in sides[1]])))
    inside, level = float(np.median(_differences(middle))), abs(float(np.median(middle)))
    return (corners / inside, corners / level) if inside and level else (0.0, 0.0)


def _differences(volume: np.ndarray) -> np.ndarray:
    return np.abs(volume[:-2] - 2 * volume[1:-1] + volume[2:]).ravel()
