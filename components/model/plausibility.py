"""Is a predicted mask plausible: how much of the head it is, what lies outside, what a rule without a network says."""

import numpy as np

from components.model.threshold_rule import rule_mask
from components.scans.head import Head

MOST_OUTSIDE = 0.1
"""Share of the prediction that may lie outside the head: the border of a head is known to a voxel or two."""


def measures(
    mask: np.ndarray, volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, head: Head
) -> dict[str, float]:
    """Return what is judged of a mask, bool (X, Y, S), of a scan.

    share: of the head, that the mask fills. confirmed, overlooked: of the head, where the rule finds lesion too, and
    where it alone does. outside: of the mask, what lies outside the head.
    """
    voxels, rule = head.mask.sum(), rule_mask(volume, voxel_mm, head.mask)
    return {
        "share": float(mask.sum() / voxels),
        "confirmed": float((mask & rule).sum() / voxels),
        "overlooked": float((rule & ~mask).sum() / voxels),
        "outside": float((mask & ~head.mask).sum() / max(mask.sum(), 1)),
    }


def unconfirmed_root(found: dict[str, float]) -> float:
    """Cube root of what is predicted less that of what the rule confirms: outlines err alike at any size."""
    return float(np.cbrt(found["share"]) - np.cbrt(found["confirmed"]))


def overlooked_root(found: dict[str, float]) -> float:
    return float(np.cbrt(found["overlooked"]))


def implausible(found: dict[str, float], limits: dict[str, float]) -> list[str]:
    """Return in words what is not plausible.

    limits: most_share, the largest lesion of a training scan as a share of its head; share_root, unconfirmed_root and
    overlooked_root, the cube roots beyond which it is unusual.
    """
    said = []
    if np.cbrt(found["share"]) > limits["share_root"]:
        said.append(f"predicted {found['share']:.0%} of the head; at most {limits['most_share']:.0%} in training")
    if found["outside"] > MOST_OUTSIDE:
        said.append(f"{found['outside']:.0%} of the prediction lies outside the head")
    if unconfirmed_root(found) > limits["unconfirmed_root"]:
        said.append(
            f"predicted {found['share']:.1%} of the head; the rule without a network confirms {found['confirmed']:.1%}"
        )
    if overlooked_root(found) > limits["overlooked_root"]:
        said.append(f"the rule without a network finds another {found['overlooked']:.1%} of the head")
    return said
