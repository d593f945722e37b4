"""For which patients a model is good: by true lesion volume, by site, by scanner; lesion-free scans on their own.

A lesion-free scan is in no stratum: its Dice is 1 or 0 for one voxel more, which would drown what it is mixed with.
"""

from collections.abc import Callable, Sequence

import numpy as np

from components.core.intervals import bounded_mean_interval
from components.evaluate.metrics import patient_means

VOLUMES = ("<1 mL", "1-5 mL", "5-20 mL", ">20 mL")
DIFFERENCE = "absolute_volume_difference_ml"


def strata(cases: list[dict]) -> dict[str, dict[str, dict]]:
    """Scans with a lesion: `lesion volume`, `site`, `scanner` to stratum to what `_row` gives.

    Scans whose voxel size, site or scanner is unknown are in none of its strata.
    """
    lesions = [case for case in cases if case["lesions"]]
    out = {"lesion volume": _rows(lesions, lambda case: _volume(case["truth_ml"]), VOLUMES)}
    for field in ("site", "scanner"):
        names = sorted({case[field] for case in lesions if case[field]})
        out[field] = _rows(lesions, lambda case, field=field: case[field], names)
    return out


def lesion_free(cases: list[dict]) -> dict:
    """Scans without a lesion: in how many one was found, and how much (mL a scan, None where sizes are unknown)."""
    free = [case for case in cases if not case["lesions"]]
    found = [case["predicted_ml"] for case in free if case["predicted_ml"] is not None]
    return {
        "patients": len({case["patient"] for case in free}),
        "scans": len(free),
        "scans_with_false_lesion": sum(case["false_lesions"] > 0 for case in free),
        "false_positive_ml_mean": float(np.mean(found)) if found else None,
    }


def _volume(ml: float | None) -> str | None:
    """Which of `VOLUMES` it is; 1 and 5 mL belong to what begins with them, 20 mL to what ends with it."""
    return None if ml is None else VOLUMES[(ml >= 1) + (ml >= 5) + (ml > 20)]


def _rows(scans: list[dict], of: Callable[[dict], str | None], names: Sequence[str]) -> dict[str, dict]:
    return {name: _row([case for case in scans if of(case) == name]) for name in names}


def _row(scans: list[dict]) -> dict:
    """Means over patients, each the mean of their scans of this stratum; None where nothing is known."""
    of = {name: list(patient_means(scans, name).values()) for name in ("dice", "lesion_f1", DIFFERENCE)}
    low, high = bounded_mean_interval(of["dice"]) or (None, None)
    mean = {name: float(np.mean(values)) if values else None for name, values in of.items()}
    return {
        "patients": len(of["dice"]), "scans": len(scans),
        "dice_mean": mean["dice"], "dice_ci_low": low, "dice_ci_high": high,
        "lesion_f1_mean": mean["lesion_f1"], f"{DIFFERENCE}_mean": mean[DIFFERENCE],
    }  # fmt: skip
