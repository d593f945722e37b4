"""Results by true lesion volume, by site and by scanner; and results of lesion-free scans.

A lesion-free scan is in no subgroup: its Dice is 1 or 0, and one voxel decides. It would dominate the mean.
"""

from collections.abc import Sequence

import numpy as np

from components.artifacts.evaluation import LesionFree, ScanResult, Subgroup
from components.core.intervals import bounded_mean_interval
from components.evaluate.metrics import patient_means

VOLUMES = ("<1 mL", "1-5 mL", "5-20 mL", ">20 mL")
LESION_VOLUME = "lesion volume"


def subgroups(scans: Sequence[ScanResult]) -> dict[str, dict[str, Subgroup]]:
    """Group scans with a lesion: `lesion volume`, `site` and `scanner` to name to results.

    A scan with an unknown volume, site or scanner is in no subgroup of that kind.
    """
    lesions = [scan for scan in scans if scan.lesions]
    out = {
        LESION_VOLUME: {
            name: _results([scan for scan in lesions if _volume_group(scan.truth_ml) == name]) for name in VOLUMES
        }
    }
    for field in ("site", "scanner"):
        names = sorted({getattr(scan, field) for scan in lesions if getattr(scan, field)})
        out[field] = {name: _results([scan for scan in lesions if getattr(scan, field) == name]) for name in names}
    return out


def lesion_free(scans: Sequence[ScanResult]) -> LesionFree:
    """Return results over scans without a lesion: false lesions and their volume."""
    free = [scan for scan in scans if not scan.lesions]
    false_ml = [scan.predicted_ml for scan in free if scan.predicted_ml is not None]
    return LesionFree(
        patients=len({scan.patient for scan in free}),
        scans=len(free),
        scans_with_false_lesion=sum(scan.false_lesions > 0 for scan in free),
        false_positive_ml_mean=float(np.mean(false_ml)) if false_ml else None,
    )


def _volume_group(ml: float | None) -> str | None:
    """Return the name in `VOLUMES`. 1 and 5 mL belong to the larger group, 20 mL to the smaller."""
    return None if ml is None else VOLUMES[(ml >= 1) + (ml >= 5) + (ml > 20)]


def _results(scans: list[ScanResult]) -> Subgroup:
    """Return means over patients, each the mean of their scans in this subgroup."""
    dice, lesion_f1, difference = (
        list(patient_means(scans, name).values()) for name in ("dice", "lesion_f1", "absolute_volume_difference_ml")
    )
    low, high = bounded_mean_interval(dice) or (None, None)
    return Subgroup(
        patients=len(dice),
        scans=len(scans),
        dice_mean=_mean(dice),
        dice_ci_low=low,
        dice_ci_high=high,
        lesion_f1_mean=_mean(lesion_f1),
        absolute_volume_difference_ml_mean=_mean(difference),
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
