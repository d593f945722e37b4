from collections.abc import Callable

import pytest

from components.artifacts.evaluation import ScanResult
from tests.support.scan_results import scan_result


@pytest.fixture(scope="session")
def result() -> Callable[..., ScanResult]:
    """result("A", truth_ml=4.0, ...): one test scan; a lesion of 2 mL of which 1.5 mL were found."""
    return scan_result


@pytest.fixture(scope="session")
def free(result) -> Callable[..., ScanResult]:
    """A test scan without a lesion, in which none was found."""

    def make(patient: str, **fields) -> ScanResult:
        nothing = {"lesions": 0, "lesions_found": 0, "truth_ml": 0.0, "predicted_ml": 0.0, "dice": 1.0, "iou": 1.0}
        empty = {"truth_voxels": 0, "predicted_voxels": 0, "slice_has_lesion": [False, False]}
        return result(patient, **(nothing | empty | fields))

    return make
