"""What is said of a scan beside its mask: the lesion's volume with an interval, and whether a person should look."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from components.model.average_head import portrait, unlike_average
from components.model.calibration import MIDDLES, histogram
from components.model.out_of_range import appearance, unlike
from components.model.placement import Placement, place
from components.model.plausibility import implausible, measures
from components.scans.head import Head, find_head

WIDE_ABOVE_ML = 5.0
"""Of smaller volumes an interval is always wide."""
SELDOM = 0.05
"""Share of training and validation scans up to which something is unusual."""


@dataclass(frozen=True)
class Findings:
    """Volumes in mL, None where the voxel size or the model's own errors are not known.

    level: confidence of the interval from low to high, 0.9 where there were patients enough to learn it from.
    review: why a person should look at this scan, each reason in words; empty where nothing is unusual.
    """

    lesion_ml: float | None
    lesion_ml_low: float | None
    lesion_ml_high: float | None
    level: float | None
    review: list[str]


def findings(
    probability: np.ndarray,
    mask: np.ndarray,
    volume: np.ndarray,
    voxel_mm: tuple[float, float, float] | None,
    facts: dict,
    head: Head | None = None,
) -> Findings:
    """Of one scan (X, Y, S): the network's probabilities, uncalibrated, the mask made of them, the scan itself.

    `head` is that of the scan where it is known already. What `model.json` does not hold, as those of older models, is
    not said.
    """
    ml = None if voxel_mm is None else float(mask.sum() * np.prod(voxel_mm) / 1000)
    low, high, level = volume_interval(ml, facts.get("volume_interval"))
    review = unlike(appearance(volume, voxel_mm), facts["seen"]) if "seen" in facts else []
    head = head or find_head(volume, voxel_mm)
    if "heads" in facts:
        review += head_reasons(mask, volume, voxel_mm, facts["heads"], head)
    if facts.get("pixel_mm") and head.found:
        review += scaled_down(place(volume, voxel_mm, facts["image_size"], facts["pixel_mm"], head))
    review += wide_interval(ml, low, high, facts.get("volume_interval"))
    if "uncertainty" in facts:
        inside, outside = histogram(probability[mask]), histogram(probability[~mask])
        review += doubts(inside, outside, facts)
    return Findings(ml, low, high, level, review)


def volume_interval(ml: float | None, learnt: dict | None) -> tuple[float | None, float | None, float | None]:
    """Lowest and highest volume in mL, and the confidence that the true one lies between them.

    `learnt` is how far off cube roots of volumes were on the validation patients (split conformal): an outline errs
    by about the same distance around a small lesion and a large one. Where nothing was found it is 0 to that, cubed.
    """
    if ml is None or not learnt:
        return None, None, None
    root, error = np.cbrt(ml), learnt["cube_root_ml"]
    return float(max(root - error, 0) ** 3), float((root + error) ** 3), learnt["level"]


def wide_interval(ml: float | None, low: float | None, high: float | None, learnt: dict | None) -> list[str]:
    """Why the volume in mL says little: its interval is wider than itself.

    Not said where that is usual, as of a model whose volumes were far off in validation: it says nothing of this scan.
    """
    if low is None or ml <= WIDE_ABOVE_ML or high - low <= ml or learnt.get("wide", 0) > SELDOM:
        return []
    return [f"the volume's interval, {low:.1f} to {high:.1f} mL, is wider than the volume, {ml:.1f} mL"]


def scaled_down(placement: Placement) -> list[str]:
    if placement.shrunk == 1:
        return []
    return [f"the head is larger than the model's grid, and was scaled down to {placement.shrunk:.0%}"]


def head_reasons(
    mask: np.ndarray, volume: np.ndarray, voxel_mm: tuple[float, float, float] | None, learnt: dict, head: Head
) -> list[str]:
    """Why a person should look, of what can be measured against the head; `learnt` is `heads` in `model.json`."""
    if not head.found:
        return ["no head found in the scan"] if learnt["not_found"] <= SELDOM else []
    said = unlike_average(portrait(volume, voxel_mm, head), learnt["average"]) if learnt["average"] else []
    return said + (implausible(measures(mask, volume, voxel_mm, head), learnt["limits"]) if learnt["limits"] else [])


def uncertainty(inside: np.ndarray, outside: np.ndarray, temperature: float) -> float:
    """How unsure the model is of a mask, from 0 to 1, from the `histogram` of its voxels and of all others.

    1 less the Dice that the calibrated probabilities promise it (ratio of expectations, over the voxels that count);
    of an empty mask the highest calibrated probability.
    """
    p = expit(MIDDLES / temperature)
    if not inside.any():
        return float(p[np.flatnonzero(outside)[-1]]) if outside.any() else 0.0
    return float(1 - 2 * (inside @ p) / (inside.sum() + (inside + outside) @ p))


def doubts(inside: np.ndarray, outside: np.ndarray, facts: dict) -> list[str]:
    """Why this mask is in doubt: the model is less sure of it than of nearly all masks of the validation scans."""
    value = uncertainty(inside, outside, facts["temperature"])
    if inside.any():
        most = facts["uncertainty"]["mask"]
        if most is None:
            return ["a lesion found; in no validation scan was any"]
        return [f"Dice expected to be {1 - value:.3f}; {1 - most:.3f} or more in validation"] if value > most else []
    most = facts["uncertainty"]["empty"]
    if most is None:
        return ["no lesion found; in every validation scan one was"]
    return [f"no lesion found, yet a voxel of probability {value:.3f}; up to {most:.3f} in validation"] * (value > most)
