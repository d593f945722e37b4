"""Check whether a predicted mask is plausible: its share of the head, its part outside, and the threshold rule."""

import numpy as np

from components.artifacts.trained_model import HeadLimits
from components.model.threshold_rule import rule_mask
from components.scans.head import Head

MOST_OUTSIDE = 0.1
"""Share of the prediction that may be outside the head: its border is exact to one or two voxels."""


def measures(
    mask: np.ndarray, volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, head: Head
) -> dict[str, float]:
    """Measure a mask, bool (X, Y, S), of a scan (X, Y, S).

    Returns:
        share: mask voxels divided by head voxels. confirmed: lesion of both mask and threshold rule, overlooked: lesion
        of the rule only, both divided by head voxels. outside: share of the mask that is outside the head.
    """
    voxels, rule = head.mask.sum(), rule_mask(volume, voxel_mm, head.mask)
    return {
        "share": float(mask.sum() / voxels),
        "confirmed": float((mask & rule).sum() / voxels),
        "overlooked": float((rule & ~mask).sum() / voxels),
        "outside": float((mask & ~head.mask).sum() / max(mask.sum(), 1)),
    }


def unconfirmed_root(found: dict[str, float]) -> float:
    """Return the cube root of `share` less that of `confirmed`: errors of outlines are then alike at any size."""
    return float(np.cbrt(found["share"]) - np.cbrt(found["confirmed"]))


def overlooked_root(found: dict[str, float]) -> float:
    """Return the cube root of `overlooked`."""
    return float(np.cbrt(found["overlooked"]))


def implausible(found: dict[str, float], limits: HeadLimits) -> list[str]:
    """Return why a mask with these `measures` is not plausible; empty if it is."""
    reasons = []
    if _exceeds(float(np.cbrt(found["share"])), limits.share_root):
        reasons.append(f"predicted {found['share']:.0%} of the head; at most {limits.most_share:.0%} in training")
    if found["outside"] > MOST_OUTSIDE:
        reasons.append(f"{found['outside']:.0%} of the prediction is outside the head")
    if _exceeds(unconfirmed_root(found), limits.unconfirmed_root):
        reasons.append(
            f"predicted {found['share']:.1%} of the head; the threshold rule confirms {found['confirmed']:.1%}"
        )
    if _exceeds(overlooked_root(found), limits.overlooked_root):
        reasons.append(f"the threshold rule finds another {found['overlooked']:.1%} of the head")
    return reasons


def _exceeds(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit
