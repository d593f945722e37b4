"""Check whether a scan is in the range of the training scans, by measures that do not depend on intensity units."""

import numpy as np

REASONS = {
    "slices": "{:.0f} slices; training scans have {:.0f} to {:.0f}",
    "slice_mm": "slices {:.1f} mm thick; training scans have {:.1f} to {:.1f} mm",
    "pixel_mm": "pixels of {:.2f} mm; training scans have {:.2f} to {:.2f} mm",
    "field_mm": "field of view {:.0f} mm; training scans have {:.0f} to {:.0f} mm",
    "background": "{:.0%} of the scan is dark background; training scans have {:.0%} to {:.0%}",
    "spread": "tissue varies by {:.2f} of its median; training scans have {:.2f} to {:.2f}",
    "bright": "the brightest tissue is {:.1f} times the median; training scans have {:.1f} to {:.1f}",
    "noise": "noise is {:.3f} of the median of tissue; training scans have {:.3f} to {:.3f}",
}
DARK = 0.2
"""Below this share of the 99th percentile is background."""
OF_THE_PATIENT = ("background", "spread", "bright", "noise")
"""Measures that differ between patients of one scanner; the others depend on its settings."""
SHARE_OF_RANGE, SHARE_OF_PATIENTS_RANGE, SHARE_OF_VALUE = 0.25, 0.5, 0.1
"""Margin beyond the range: the larger of a share of the range and a share of the value."""


def appearance(volume: np.ndarray, voxel_mm: tuple[float, float, float] | None) -> dict[str, float]:
    """Return the measures named in `REASONS` of a scan (X, Y, S); without those in mm if `voxel_mm` is None."""
    measured = {"slices": float(volume.shape[2])}
    if voxel_mm is not None:
        x, y, z = (float(mm) for mm in voxel_mm)
        field = max(volume.shape[0] * x, volume.shape[1] * y)
        measured |= {"slice_mm": z, "pixel_mm": max(x, y), "field_mm": field}
    tissue = volume > DARK * np.percentile(volume, 99)
    measured["background"] = 1 - float(tissue.mean())
    if not tissue.any():
        return measured
    quarter, median, three, bright = (float(v) for v in np.percentile(volume[tissue], (25, 50, 75, 99)))
    if median > 0:
        noise = _noise(volume, tissue)
        measured |= {"spread": (three - quarter) / median, "bright": bright / median, "noise": noise / median}
    return measured


def out_of_range(measured: dict[str, float], ranges: dict[str, tuple[float, float]]) -> list[str]:
    """Return which measures are outside the ranges (name to lowest and highest) by more than the margin."""
    reasons = []
    for name, (low, high) in ranges.items():
        margin = (SHARE_OF_PATIENTS_RANGE if name in OF_THE_PATIENT else SHARE_OF_RANGE) * (high - low)
        if name in measured and not (
            low - max(margin, SHARE_OF_VALUE * abs(low))
            <= measured[name]
            <= high + max(margin, SHARE_OF_VALUE * abs(high))
        ):
            reasons.append(REASONS[name].format(measured[name], low, high))
    return reasons


def _noise(volume: np.ndarray, tissue: np.ndarray) -> float:
    """Return the standard deviation of noise, from second differences: slow changes of intensity do not affect them."""
    second = volume[:-2] - 2 * volume[1:-1] + volume[2:]
    inside = tissue[:-2] & tissue[1:-1] & tissue[2:]
    return float(1.4826 * np.median(np.abs(second[inside])) / np.sqrt(6)) if inside.any() else 0.0
