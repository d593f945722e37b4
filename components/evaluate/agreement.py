"""Whether what the model says of itself holds on the test patients: probabilities, volumes, calls for review."""

import numpy as np

from components.core.intervals import FEWEST
from components.evaluate.metrics import patient_means
from components.model.calibration import expected_calibration_error

ROUNDING_ML = 1e-6
"""What cubes of cube roots may be off: far less than a voxel."""
FAILED_BELOW = 0.5
FAILURE = f"Dice below {FAILED_BELOW}; so also a scan whose lesion was missed, or a lesion found in a lesion-free scan"


def calibration(before: np.ndarray, after: np.ndarray, facts: dict) -> dict:
    """Expected calibration errors from the summed `reliability` of the network's and the calibrated probabilities."""
    return {
        "temperature": facts.get("temperature"),
        "ece_before": expected_calibration_error(before),
        "ece_after": expected_calibration_error(after),
        "bins_before": _bins(before),
        "bins_after": _bins(after),
    }


def volume_agreement(cases: list[dict], facts: dict) -> dict:
    """Bland-Altman (1986): mean of predicted less true volume over patients, and that ± 1.96 standard deviations.

    interval_coverage: share of patients of whom every scan's true volume lies in its interval.
    """
    differences = np.array([predicted - true for true, predicted in volume_pairs(cases).values()])
    bias = float(differences.mean()) if len(differences) else None
    spread = 1.96 * float(differences.std(ddof=1)) if len(differences) >= FEWEST else None
    held: dict[str, bool] = {}
    for case in cases:
        if case["predicted_ml_low"] is not None:
            outside = max(case["predicted_ml_low"] - case["truth_ml"], case["truth_ml"] - case["predicted_ml_high"])
            inside = outside < ROUNDING_ML
            held[case["patient"]] = held.get(case["patient"], True) and inside
    return {
        "bias_ml": bias,
        "agreement_low_ml": None if spread is None else bias - spread,
        "agreement_high_ml": None if spread is None else bias + spread,
        "interval_level": facts.get("volume_interval", {}).get("level") if held else None,
        "interval_coverage": float(np.mean(list(held.values()))) if held else None,
    }


def volume_pairs(cases: list[dict]) -> dict[str, tuple[float, float]]:
    """Patient to true and predicted volume in mL, each the mean of the patient's scans."""
    true, predicted = (patient_means(cases, f"{which}_ml") for which in ("truth", "predicted"))
    return {patient: (true[patient], predicted[patient]) for patient in true}


def failed(cases: list[dict]) -> list[dict]:
    """The scans that `FAILURE` describes, the worst first; of equal Dice the largest lesion."""
    failures = [case for case in cases if case["dice"] < FAILED_BELOW]
    return sorted(failures, key=lambda c: (c["dice"], -c["truth_voxels"], -c["predicted_voxels"], c["case"]))


def review(cases: list[dict]) -> dict:
    """How many scans a person was asked to look at, how many failed, how many are both."""
    failures = failed(cases)
    return {
        "scans": len(cases),
        "flagged": sum(bool(case["needs_review"]) for case in cases),
        "failures": len(failures),
        "failures_flagged": sum(bool(case["needs_review"]) for case in failures),
        "failure": FAILURE,
    }


def scalars(calibration: dict, volume: dict, review: dict) -> dict[str, float]:
    """The numbers of these that a run is compared by, under the names of the summary; without what is unknown."""
    found = {
        "test_ece_before": calibration["ece_before"],
        "test_ece_after": calibration["ece_after"],
        "test_volume_bias_ml": volume["bias_ml"],
        "test_volume_interval_coverage": volume["interval_coverage"],
        "test_review_flagged": review["flagged"],
        "test_failures": review["failures"],
        "test_failures_flagged": review["failures_flagged"],
    }
    return {name: value for name, value in found.items() if value is not None}


def _bins(rows: np.ndarray) -> list[dict]:
    """Voxels of each bin, their mean probability, and the share of them that is lesion."""
    return [
        {
            "voxels": int(voxels),
            "probability": float(probability / voxels) if voxels else None,
            "lesion": float(lesion / voxels) if voxels else None,
        }
        for voxels, probability, lesion in rows
    ]
