"""Metrics of a predicted lesion mask: the four of ISLES'22 and more.

Definitions after Hernandez Petzsche et al. 2022 (ISLES 2022) and its evaluation code. Masks are boolean arrays of one
shape; voxel sizes are in mm, volumes in mL.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from components.artifacts.evaluation import ScanResult
from components.core.intervals import bounded_mean_interval, mean_interval
from components.evaluate.matching import matched_f1
from components.evaluate.surface import surface_distance_95

LEAST_ML = 1.0
"""Least divisor of the relative volume difference."""
VOLUMES = ("truth_ml", "predicted_ml", "absolute_volume_difference_ml", "relative_volume_difference")
TOUCHING = np.ones((3, 3, 3), bool)
"""Structure of `ndimage.label`: lesions are 26-connected components."""


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return 2 |P and T| / (|P| + |T|), 1 if both masks are empty."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return |P and T| / |P or T|, 1 if both masks are empty."""
    union = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / union if union else 1.0


def relative_volume_difference(predicted_ml: float, truth_ml: float) -> float:
    """Return |predicted - true| / max(true, 1 mL).

    A missed lesion gives at most 1, a false lesion its volume in mL.
    """
    return abs(predicted_ml - truth_ml) / max(truth_ml, LEAST_ML)


def case_metrics(
    predicted: np.ndarray, truth: np.ndarray, voxel_mm: tuple[float, float, float] | None
) -> dict[str, Any]:
    """Return all metrics of one scan (X, Y, S), named as in `ScanResult`. Those in mL are None without a voxel size.

    lesion_f1, as in ISLES'22, is TP / (TP + (FP + FN) / 2). A true lesion is a TP if a predicted voxel touches it, else
    an FN. A predicted lesion that touches no true lesion is an FP. 1 if both masks are empty.
    lesion_f1_matched: see `matched_f1`. surface_distance_95_mm: see `surface_distance_95`.
    """
    true_lesions, n_true = ndimage.label(truth, TOUCHING)
    predicted_lesions, n_predicted = ndimage.label(predicted, TOUCHING)
    hit = len(np.setdiff1d(np.unique(true_lesions[predicted]), [0]))
    false = n_predicted - len(np.setdiff1d(np.unique(predicted_lesions[truth]), [0]))
    missed = n_true - hit
    ml = None if voxel_mm is None else float(np.prod(voxel_mm)) / 1000
    truth_voxels, predicted_voxels = int(truth.sum()), int(predicted.sum())
    volumes: dict[str, float | None] = dict.fromkeys(VOLUMES)
    if ml is not None:
        truth_ml, predicted_ml = truth_voxels * ml, predicted_voxels * ml
        difference = abs(truth_voxels - predicted_voxels) * ml
        relative = relative_volume_difference(predicted_ml, truth_ml)
        volumes = dict(zip(VOLUMES, (truth_ml, predicted_ml, difference, relative), strict=True))
    return {
        "dice": dice(predicted, truth),
        "iou": iou(predicted, truth),
        **volumes,
        "lesion_count_difference": abs(n_true - n_predicted),
        "lesion_f1": hit / (hit + (false + missed) / 2) if n_true + n_predicted else 1.0,
        "lesion_f1_matched": matched_f1(predicted_lesions, true_lesions),
        "surface_distance_95_mm": surface_distance_95(predicted, truth, voxel_mm),
        "lesions": n_true,
        "lesions_found": hit,
        "false_lesions": false,
        "truth_voxels": truth_voxels,
        "predicted_voxels": predicted_voxels,
    }


def slice_dices(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Dice and IoU of each slice (S,) of a scan (X, Y, S), 1 if both slices are empty."""
    pairs = [(predicted[:, :, s], truth[:, :, s]) for s in range(truth.shape[2])]
    return np.array([dice(p, t) for p, t in pairs]), np.array([iou(p, t) for p, t in pairs])


SUMMARISED = (
    "dice", "iou", "absolute_volume_difference_ml", "relative_volume_difference", "lesion_count_difference",
    "lesion_f1", "lesion_f1_matched", "surface_distance_95_mm",
)  # fmt: skip
BOUNDED = {"dice", "iou", "lesion_f1", "lesion_f1_matched"}
"""Metrics between 0 and 1."""


def patient_means(scans: Iterable[ScanResult], name: str) -> dict[str, float]:
    """Return patient to the mean of the field `name` over their scans, without patients whose value is unknown."""
    return means_by_patient((scan.patient, getattr(scan, name)) for scan in scans)


def means_by_patient(values: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """Return patient to the mean of their values, without patients whose values are all None."""
    patients: dict[str, list[float]] = {}
    for patient, value in values:
        if value is not None:
            patients.setdefault(patient, []).append(value)
    return {patient: float(np.mean(values)) for patient, values in patients.items()}


def lesion_dice(scans: Iterable[ScanResult], name: str = "dice") -> dict[str, float]:
    """Return patient to the mean Dice of their scans with a lesion, without patients who have no such scan.

    The Dice of a scan without a lesion is 1 or 0, and one voxel decides: it does not measure outlines.
    """
    return patient_means([scan for scan in scans if scan.lesions], name)


def over_patients(name: str, patients: dict[str, float], bounded: bool) -> dict[str, float]:
    """Return `NAME_mean`, `_std`, `_median`, `_q1`, `_q3` over patients; `_ci_low` and `_ci_high` for five or more.

    `bounded`: values between 0 and 1, not a volume, a count or a distance.
    """
    values = list(patients.values())
    q1, median, q3 = np.percentile(values, (25, 50, 75))
    out = {"mean": np.mean(values), "std": np.std(values), "median": median, "q1": q1, "q3": q3}
    if interval := (bounded_mean_interval if bounded else mean_interval)(values):
        out |= dict(zip(("ci_low", "ci_high"), interval, strict=True))
    return {f"{name}_{end}": float(value) for end, value in out.items()}


def summary(scans: Sequence[ScanResult]) -> dict[str, float]:
    """Return the test metrics over patients (see `over_patients`), each patient the mean of their scans.

    The headline is `test_lesion_dice`, over patients with a lesion. `test_lesion_free_false_alarm_rate` is the share of
    patients without a lesion in whom the model found one. `test_lesion_sensitivity` and slice metrics pool all scans. A
    metric that no scan has (mL without voxel sizes) is left out.
    """
    patients: dict[str, list[ScanResult]] = {}
    for scan in scans:
        patients.setdefault(scan.patient, []).append(scan)
    out: dict[str, float] = {}
    for name in SUMMARISED:
        if means := patient_means(scans, name):
            out |= over_patients(f"test_{name}", means, name in BOUNDED)
    if means := lesion_dice(scans):
        out |= over_patients("test_lesion_dice", means, bounded=True)
    has_lesion = np.concatenate([scan.slice_has_lesion for scan in scans]).astype(bool)
    for name in ("slice_dice", "slice_iou"):
        slices = np.concatenate([getattr(scan, name) for scan in scans])
        out[f"test_{name}_mean"], out[f"test_{name}_std"] = float(slices.mean()), float(slices.std())
        if has_lesion.any():
            out[f"test_lesion_{name}_mean"] = float(slices[has_lesion].mean())
    if lesions := sum(scan.lesions for scan in scans):
        out["test_lesion_sensitivity"] = sum(scan.lesions_found for scan in scans) / lesions
    if false_ml := [s.predicted_ml for s in scans if not s.lesions and s.predicted_ml is not None]:
        out["test_false_positive_ml_lesion_free_mean"] = float(np.mean(false_ml))
    lesion_free = [own for own in patients.values() if not any(scan.lesions for scan in own)]
    out["test_patients"], out["test_patients_lesion_free"] = len(patients), len(lesion_free)
    if lesion_free:
        alarms = [any(scan.false_lesions for scan in own) for own in lesion_free]
        out["test_lesion_free_false_alarm_rate"] = float(np.mean(alarms))
    return out
