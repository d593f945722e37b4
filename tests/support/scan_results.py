"""Results of test scans as evaluate writes them, made by hand."""

from components.artifacts.evaluation import ScanResult
from components.evaluate.metrics import relative_volume_difference

DEFAULTS = {
    "site": None, "scanner": None, "dice": 0.7, "iou": 0.55, "lesion_f1": 1.0, "lesion_count_difference": 0,
    "lesion_f1_matched": 1.0, "surface_distance_95_mm": 2.0, "rule_dice": 0.5, "rule_lesion_f1": 0.5, "rule_ml": 3.0,
    "lesions": 1, "lesions_found": 1, "false_lesions": 0, "truth_ml": 2.0, "predicted_ml": 1.5, "truth_voxels": 100,
    "predicted_voxels": 75, "predicted_ml_low": None, "predicted_ml_high": None, "needs_review": [],
    "slice_dice": [0.7, 1.0], "slice_iou": [0.55, 1.0], "slice_has_lesion": [True, False],
    "slice_has_prediction": [True, False],
}  # fmt: skip
"""A scan with a lesion of 2 mL, of which 1.5 mL were found."""


def scan_result(patient: str, **fields) -> ScanResult:
    """Return the result of a scan; volume differences follow from the volumes."""
    values = DEFAULTS | {"case": patient, "patient": patient} | fields
    true, predicted = values["truth_ml"], values["predicted_ml"]
    known = true is not None and predicted is not None
    differences = {
        "absolute_volume_difference_ml": abs(predicted - true) if known else None,
        "relative_volume_difference": relative_volume_difference(predicted, true) if known else None,
    }
    return ScanResult(**(differences | values))
