"""The lesion's volume with an interval, and the reasons why a person should look at a prediction."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from components.artifacts.trained_model import TrainedModel, UsualHeads, VolumeInterval
from components.model.average_head import differences_from_average, portrait
from components.model.calibration import MIDDLES, histogram
from components.model.out_of_range import appearance, out_of_range
from components.model.placement import Placement, place
from components.model.plausibility import implausible, measures
from components.scans.head import Head, find_head

WIDE_ABOVE_ML = 5.0
"""The intervals of smaller volumes are always wide."""
SELDOM = 0.05
"""Largest share of training and validation scans for something unusual."""


@dataclass(frozen=True)
class Findings:
    """Volumes in mL, None if the voxel size or the model's errors are unknown."""

    lesion_ml: float | None
    lesion_ml_low: float | None
    lesion_ml_high: float | None
    level: float | None
    """Confidence of the interval; 0.9 if there were enough validation patients."""
    review: list[str]
    """Why a person should look at this scan; empty if nothing is unusual."""


def findings(
    probability: np.ndarray,
    mask: np.ndarray,
    volume: np.ndarray,
    voxel_mm: tuple[float, float, float] | None,
    trained: TrainedModel,
    head: Head | None = None,
) -> Findings:
    """Return volume, interval and reasons for review of one scan (X, Y, S).

    Args:
        probability: The network's probabilities, not calibrated.
        mask: The mask made from them, bool.
        volume: The scan.
        voxel_mm: Size of a voxel.
        trained: The model. Checks that an older model has not learnt are left out.
        head: The scan's head if it is known; else it is found here.
    """
    ml = None if voxel_mm is None else float(mask.sum() * np.prod(voxel_mm) / 1000)
    low, high, level = volume_interval(ml, trained.volume_interval)
    review = out_of_range(appearance(volume, voxel_mm), trained.seen) if trained.seen is not None else []
    head = head or find_head(volume, voxel_mm)
    if trained.heads:
        review += head_reasons(mask, volume, voxel_mm, trained.heads, head)
    if trained.pixel_mm and head.found:
        review += scaled_down(place(volume, voxel_mm, trained.image_size, trained.pixel_mm, head))
    review += wide_interval(ml, low, high, trained.volume_interval)
    if trained.uncertainty:
        review += doubts(histogram(probability[mask]), histogram(probability[~mask]), trained)
    return Findings(ml, low, high, level, review)


def volume_interval(
    ml: float | None, interval: VolumeInterval | None
) -> tuple[float | None, float | None, float | None]:
    """Return lowest and highest volume in mL, and the probability that the true volume is between them.

    The interval is that of the errors of cube roots of volumes on the validation patients (split conformal): an outline
    is off by about the same distance for small and large lesions. An empty mask has the interval from 0.
    """
    if ml is None or interval is None:
        return None, None, None
    root, error = np.cbrt(ml), interval.cube_root_ml
    return float(max(root - error, 0) ** 3), float((root + error) ** 3), interval.level


def wide_interval(
    ml: float | None, low: float | None, high: float | None, interval: VolumeInterval | None
) -> list[str]:
    """Return a reason for review if the interval is wider than the volume, unless that is usual for this model."""
    if ml is None or low is None or high is None or interval is None:
        return []
    if ml <= WIDE_ABOVE_ML or high - low <= ml or interval.wide > SELDOM:
        return []
    return [f"the volume's interval, {low:.1f} to {high:.1f} mL, is wider than the volume, {ml:.1f} mL"]


def scaled_down(placement: Placement) -> list[str]:
    """Return a reason for review if the head does not fit on the model grid."""
    if placement.shrunk == 1:
        return []
    return [f"the head is larger than the model's grid, and was scaled down to {placement.shrunk:.0%}"]


def head_reasons(
    mask: np.ndarray,
    volume: np.ndarray,
    voxel_mm: tuple[float, float, float] | None,
    usual: UsualHeads,
    head: Head,
) -> list[str]:
    """Return the reasons for review that are measured against the head."""
    if not head.found:
        return ["no head found in the scan"] if usual.not_found <= SELDOM else []
    reasons = differences_from_average(portrait(volume, voxel_mm, head), usual.average) if usual.average else []
    return reasons + (implausible(measures(mask, volume, voxel_mm, head), usual.limits) if usual.limits else [])


def uncertainty(inside: np.ndarray, outside: np.ndarray, temperature: float) -> float:
    """Return how unsure the model is of a mask, 0 to 1, from the `histogram` of the mask's and all other voxels.

    It is 1 less the Dice that the calibrated probabilities predict (ratio of expectations, over the counted voxels);
    for an empty mask, the highest calibrated probability.
    """
    p = expit(MIDDLES / temperature)
    if not inside.any():
        return float(p[np.flatnonzero(outside)[-1]]) if outside.any() else 0.0
    return float(1 - 2 * (inside @ p) / (inside.sum() + (inside + outside) @ p))


def doubts(inside: np.ndarray, outside: np.ndarray, trained: TrainedModel) -> list[str]:
    """Return a reason for review if the model is less sure of this mask than of nearly all validation masks.

    inside, outside: `histogram` of the mask's voxels and of all others.
    """
    if trained.uncertainty is None or trained.temperature is None:
        return []
    value = uncertainty(inside, outside, trained.temperature)
    if inside.any():
        most = trained.uncertainty["mask"]
        if most is None:
            return ["a lesion was found; no validation scan had one"]
        return [f"Dice expected to be {1 - value:.3f}; {1 - most:.3f} or more in validation"] if value > most else []
    most = trained.uncertainty["empty"]
    if most is None:
        return ["no lesion was found; every validation scan had one"]
    return [f"no lesion found, yet a voxel of probability {value:.3f}; up to {most:.3f} in validation"] * (value > most)
