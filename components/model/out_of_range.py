"""What a scan looks like, in a few numbers that need no unit of intensity, and whether the model has seen the like."""

import numpy as np

WORDS = {
    "slices": "{:.0f} slices; learnt from {:.0f} to {:.0f}",
    "slice_mm": "slices {:.1f} mm thick; learnt from {:.1f} to {:.1f} mm",
    "pixel_mm": "pixels of {:.2f} mm; learnt from {:.2f} to {:.2f} mm",
    "field_mm": "field of view {:.0f} mm; learnt from {:.0f} to {:.0f} mm",
    "background": "{:.0%} of the scan is dark background; learnt from {:.0%} to {:.0%}",
    "spread": "tissue varies by {:.2f} of its median; learnt from {:.2f} to {:.2f}",
    "bright": "the brightest tissue is {:.1f} times the median; learnt from {:.1f} to {:.1f}",
    "noise": "noise is {:.3f} of the median of tissue; learnt from {:.3f} to {:.3f}",
}
DARK = 0.2
"""Below this share of the 99th percentile is background."""
OF_THE_PATIENT = ("background", "spread", "bright", "noise")
"""What differs from patient to patient on one scanner; all else is how it was set."""
SHARE_OF_RANGE, SHARE_OF_PATIENTS_RANGE, SHARE_OF_VALUE = 0.25, 0.5, 0.1
"""How far beyond what was seen is still like it: the larger of the share of its range, and of the value."""


def appearance(volume: np.ndarray, voxel_mm: tuple[float, float, float] | None) -> dict[str, float]:
    """Numbers by the names in `WORDS` for a scan (X, Y, S); without those in mm where voxel sizes are unknown."""
    seen = {"slices": float(volume.shape[2])}
    if voxel_mm is not None:
        x, y, z = (float(mm) for mm in voxel_mm)
        field = max(volume.shape[0] * x, volume.shape[1] * y)
        seen |= {"slice_mm": z, "pixel_mm": max(x, y), "field_mm": field}
    tissue = volume > DARK * np.percentile(volume, 99)
    seen["background"] = 1 - float(tissue.mean())
    if not tissue.any():
        return seen
    quarter, median, three, bright = (float(v) for v in np.percentile(volume[tissue], (25, 50, 75, 99)))
    if median > 0:
        noise = _noise(volume, tissue)
        seen |= {"spread": (three - quarter) / median, "bright": bright / median, "noise": noise / median}
    return seen


def unlike(here: dict[str, float], seen: dict[str, list[float]]) -> list[str]:
    """In words, what lies outside the ranges `seen` ([lowest, highest] by name) by more than the margin."""
    reasons = []
    for name, (low, high) in seen.items():
        margin = (SHARE_OF_PATIENTS_RANGE if name in OF_THE_PATIENT else SHARE_OF_RANGE) * (high - low)
        if name in here and not (
            low - max(margin, SHARE_OF_VALUE * abs(low)) <= here[name] <= high + max(margin, SHARE_OF_VALUE * abs(high))
        ):
            reasons.append(WORDS[name].format(here[name], low, high))
    return reasons


def _noise(volume: np.ndarray, tissue: np.ndarray) -> float:
    """Standard deviation of what differs from pixel to pixel: of second differences, which slow changes leave alone."""
    second = volume[:-2] - 2 * volume[1:-1] + volume[2:]
    inside = tissue[:-2] & tissue[1:-1] & tissue[2:]
    return float(1.4826 * np.median(np.abs(second[inside])) / np.sqrt(6)) if inside.any() else 0.0
