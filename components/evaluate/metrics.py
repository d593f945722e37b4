"""How good a predicted lesion mask is: the four ISLES'22 metrics and their companions.

Definitions after Hernandez Petzsche et al. 2022 (ISLES 2022) and its evaluation code. All take boolean
arrays of one shape; voxel sizes are millimetres, volumes millilitres.
"""

import numpy as np
from scipy import ndimage

from components.core.intervals import bounded_mean_interval, mean_interval
from components.evaluate.matching import matched_f1
from components.evaluate.surface import surface_distance_95

LEAST_ML = 1.0
"""What a volume is off by is divided by the true volume, and by no less than this."""
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


def relative_volume_difference(predicted_ml: float, truth_ml: float) -> float:
    """Return |predicted - true| / max(true, 1 mL).

    So a missed lesion counts 1 at most, a false one as many as it has mL.
    """
    return abs(predicted_ml - truth_ml) / max(truth_ml, LEAST_ML)


def case_metrics(predicted: np.ndarray, truth: np.ndarray, voxel_mm: tuple[float, float, float] | None) -> dict:
    """All metrics of one scan (X, Y, S). Those in mL are None where the voxel size is unknown.

    lesion_f1, any touch as in ISLES'22, is TP / (TP + (FP + FN) / 2): a true lesion that a predicted voxel touches is
    a TP, one that none touches an FN, a predicted component that touches no true one an FP; 1 where both are empty.
    lesion_f1_matched: see `matched_f1`. surface_distance_95_mm: see `surface_distance_95`, None where it has none.
    """
    true_lesions, n_true = ndimage.label(truth, TOUCHING)
    predicted_lesions, n_predicted = ndimage.label(predicted, TOUCHING)
    hit = len(np.setdiff1d(np.unique(true_lesions[predicted]), [0]))
    false = n_predicted - len(np.setdiff1d(np.unique(predicted_lesions[truth]), [0]))
    missed = n_true - hit
    ml = None if voxel_mm is None else float(np.prod(voxel_mm)) / 1000
    volumes = (int(truth.sum()), int(predicted.sum()))
    truth_ml, predicted_ml = (None, None) if ml is None else (v * ml for v in volumes)
    return {
        "dice": dice(predicted, truth),
        "iou": iou(predicted, truth),
        "truth_ml": truth_ml,
        "predicted_ml": predicted_ml,
        "absolute_volume_difference_ml": None if ml is None else abs(volumes[0] - volumes[1]) * ml,
        "relative_volume_difference": None if ml is None else relative_volume_difference(predicted_ml, truth_ml),
        "lesion_count_difference": abs(n_true - n_predicted),
        "lesion_f1": hit / (hit + (false + missed) / 2) if n_true + n_predicted else 1.0,
        "lesion_f1_matched": matched_f1(predicted_lesions, true_lesions),
        "surface_distance_95_mm": surface_distance_95(predicted, truth, voxel_mm),
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


SUMMARISED = (
    "dice", "iou", "absolute_volume_difference_ml", "relative_volume_difference", "lesion_count_difference",
    "lesion_f1", "lesion_f1_matched", "surface_distance_95_mm",
)  # fmt: skip
BOUNDED = {"dice", "iou", "lesion_f1", "lesion_f1_matched"}
"""Metrics between 0 and 1."""


def patient_means(cases: list[dict], name: str) -> dict[str, float]:
    """Patient to the mean of a metric over their scans; without patients of whom no scan has it."""
    patients: dict[str, list[float]] = {}
    for case in cases:
        if case[name] is not None:
            patients.setdefault(case["patient"], []).append(case[name])
    return {patient: float(np.mean(values)) for patient, values in patients.items()}


def lesion_dice(cases: list[dict], name: str = "dice") -> dict[str, float]:
    """Return patient to the mean Dice of their scans with a lesion; without patients who have none.

    The Dice of a scan without a lesion is 1 or 0, for one voxel more: it says nothing of how well lesions are outlined.
    """
    return patient_means([case for case in cases if case["lesions"]], name)


def over_patients(name: str, patients: dict[str, float], bounded: bool) -> dict[str, float]:
    """Return `NAME_mean`, `_std`, `_median`, `_q1`, `_q3` over patients, and `_ci_low`, `_ci_high` of five or more.

    `bounded` is for values between 0 and 1; else it is a volume, a count or a distance.
    """
    values = list(patients.values())
    q1, median, q3 = np.percentile(values, (25, 50, 75))
    out = {"mean": np.mean(values), "std": np.std(values), "median": median, "q1": q1, "q3": q3}
    if interval := (bounded_mean_interval if bounded else mean_interval)(values):
        out |= dict(zip(("ci_low", "ci_high"), interval, strict=True))
    return {f"{name}_{end}": float(value) for end, value in out.items()}


def summary(cases: list[dict]) -> dict[str, float]:
    """Return the test metrics over patients, each the mean of its scans (see `over_patients`), and what pools lesions.

    The headline is `test_lesion_dice`, over patients with a lesion. Beside it stands, over patients none of whose scans
    has one, the share in whom one was found: `test_lesion_free_false_alarm_rate`. A metric that no case has (mL without
    voxel sizes) is left out.
    """
    patients: dict[str, list[dict]] = {}
    for case in cases:
        patients.setdefault(case["patient"], []).append(case)
    out: dict[str, float] = {}
    for name in SUMMARISED:
        if known := patient_means(cases, name):
            out |= over_patients(f"test_{name}", known, name in BOUNDED)
    if known := lesion_dice(cases):
        out |= over_patients("test_lesion_dice", known, bounded=True)
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
    free_of_any = [scans for scans in patients.values() if not any(c["lesions"] for c in scans)]
    out["test_patients_lesion_free"] = len(free_of_any)
    if free_of_any:
        alarms = [any(c["false_lesions"] for c in scans) for scans in free_of_any]
        out["test_lesion_free_false_alarm_rate"] = float(np.mean(alarms))
    return out
