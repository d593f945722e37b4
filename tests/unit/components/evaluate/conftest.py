from collections.abc import Callable

import pytest

from components.evaluate.metrics import relative_volume_difference


@pytest.fixture(scope="session")
def result() -> Callable[..., dict]:
    """result("A", truth_ml=4.0, ...): one test scan as `evaluate` lists it; a lesion of 2 mL found but for a half."""

    def make(patient: str, **more) -> dict:
        known = {
            "case": patient, "patient": patient, "site": None, "scanner": None,
            "dice": 0.7, "iou": 0.55, "lesion_f1": 1.0, "lesion_count_difference": 0, "lesion_f1_matched": 1.0,
            "surface_distance_95_mm": 2.0, "rule_dice": 0.5, "rule_lesion_f1": 0.5, "rule_ml": 3.0,
            "lesions": 1, "lesions_found": 1, "false_lesions": 0,
            "truth_ml": 2.0, "predicted_ml": 1.5, "truth_voxels": 100, "predicted_voxels": 75,
            "predicted_ml_low": None, "predicted_ml_high": None, "needs_review": [],
            "slice_dice": [0.7, 1.0], "slice_iou": [0.55, 1.0],
            "slice_has_lesion": [True, False], "slice_has_prediction": [True, False],
        } | more  # fmt: skip
        unknown = known["truth_ml"] is None
        off = None if unknown else abs(known["predicted_ml"] - known["truth_ml"])
        relative = None if unknown else relative_volume_difference(known["predicted_ml"], known["truth_ml"])
        return {"absolute_volume_difference_ml": off, "relative_volume_difference": relative} | known

    return make


@pytest.fixture(scope="session")
def free(result) -> Callable[..., dict]:
    """The same of a scan without a lesion, in which none was found."""

    def make(patient: str, **more) -> dict:
        nothing = {"lesions": 0, "lesions_found": 0, "truth_ml": 0.0, "predicted_ml": 0.0, "dice": 1.0, "iou": 1.0}
        empty = {"truth_voxels": 0, "predicted_voxels": 0, "slice_has_lesion": [False, False]}
        return result(patient, **(nothing | empty | more))

    return make
