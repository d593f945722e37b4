"""How good is a predicted lesion mask: the four ISLES'22 metrics and their companions.

Definitions after Hernandez Petzsche et al. 2022 (ISLES 2022) and its evaluation code. All take boolean
arrays of one shape; voxel sizes are millimetres, volumes millilitres.
"""

import numpy as np
from scipy import ndimage

from components.core.intervals import bounded_mean_interval, mean_interval

TOUCHING = np.ones((3, 3, 3), bool)
"""Lesions are 26-connected components."""


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """2 |P and T| / (|P| + |T|); 1 where both are empty."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """|P and T| / |P or T|; 1 where both are empty."""
    union = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / union if union else 1.0


def case_metrics(predicted: np.ndarray, truth: np.ndarray, voxel_mm: tuple[float, float, float] | None) -> dict:
    """All metrics of one scan (X, Y, S). Those in mL are None where the voxel size is unknown.

    lesion_f1 = TP / (TP + (FP + FN) / 2): a true lesion that a predicted voxel touches is a TP, one that none
    touches an FN, a predicted component that touches no true one an FP; 1 where both are empty.
    """
    true_lesions, n_true = ndimage.label(truth, TOUCHING)
    predicted_lesions, n_predicted = ndimage.label(predicted, TOUCHING)
    hit = len(np.setdiff1d(np.unique(true_lesions[predicted]), [0]))
    false = n_predicted - len(np.setdiff1d(np.unique(predicted_lesions[truth]), [0]))
    missed = n_true - hit
    ml = None if voxel_mm is None else float(np.prod(voxel_mm)) / 1000
    volumes = (int(truth.sum()), int(predicted.sum()))
    return {
        "dice": dice(predicted, truth),
        "iou": iou(predicted, truth),
        "truth_ml": None if ml is None else volumes[0] * ml,
        "predicted_ml": None if ml is None else volumes[1] * ml,
        "absolute_volume_difference_ml": None if ml is None else abs(volumes[0] - volumes[1]) * ml,
        "lesion_count_difference": abs(n_true - n_predicted),
        "lesion_f1": hit / (hit + (false + missed) / 2) if n_true + n_predicted else 1.0,
        "lesions": n_true,
        "lesions_found": hit,
        "false_lesions": false,
        "truth_voxels": volumes[0],
        "predicted_voxels": volumes[1],
    }


def slice_dices(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice and IoU of every slice (S,) of a scan (X, Y, S); 1 where both are empty."""
    pairs = [(predicted[:, :, s], truth[:, :, s]) for s in range(truth.shape[2])]
    return np.array([dice(p, t) for p, t in pairs]), np.array([iou(p, t) for p, t in pairs])


SUMMARISED = ("dice", "iou", "absolute_volume_difference_ml", "lesion_count_difference", "lesion_f1")
BOUNDED = {"dice", "iou", "lesion_f1"}
"""Metrics between 0 and 1."""


def patient_means(cases: list[dict], name: str) -> dict[str, float]:
    """Patient to the mean of a metric over their scans; without patients of whom no scan has it."""
    patients: dict[str, list[float]] = {}
    for case in cases:
        if case[name] is not None:
            patients.setdefault(case["patient"], []).append(case[name])
    return {patient: float(np.mean(values)) for patient, values in patients.items()}


def summary(cases: list[dict]) -> dict[str, float]:
    """Test metrics over patients, each the mean of its scans: mean, std, 95 % interval; and what pools all lesions.

    A metric that no case has (mL without voxel sizes) is left out.
    """
    patients: dict[str, list[dict]] = {}
    for case in cases:
        patients.setdefault(case["patient"], []).append(case)
    out: dict[str, float] = {}
    for name in SUMMARISED:
        if values := list(patient_means(cases, name).values()):
            out[f"test_{name}_mean"], out[f"test_{name}_std"] = float(np.mean(values)), float(np.std(values))
            interval = (bounded_mean_interval if name in BOUNDED else mean_interval)(values)
            if interval is not None:
                out[f"test_{name}_ci_low"], out[f"test_{name}_ci_high"] = interval
    for name in ("dice", "iou"):
        everything = np.concatenate([c[f"slice_{name}"] for c in cases])
        lesion = np.concatenate(
            [np.asarray(c[f"slice_{name}"])[np.asarray(c["slice_has_lesion"], bool)] for c in cases]
        )
        out[f"test_slice_{name}_mean"], out[f"test_slice_{name}_std"] = (
            float(everything.mean()),
            float(everything.std()),
        )
        if len(lesion):
            out[f"test_lesion_slice_{name}_mean"] = float(lesion.mean())
    if lesions := sum(c["lesions"] for c in cases):
        out["test_lesion_sensitivity"] = sum(c["lesions_found"] for c in cases) / lesions
    free = [c["predicted_ml"] for c in cases if not c["lesions"] and c["predicted_ml"] is not None]
    if free:
        out["test_false_positive_ml_lesion_free_mean"] = float(np.mean(free))
    out["test_patients"] = len(patients)
    out["test_patients_lesion_free"] = sum(not any(c["lesions"] for c in scans) for scans in patients.values())
    return out
