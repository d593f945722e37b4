"""Check the model's statements on the test patients: probabilities, volumes with intervals, flags for review."""

from collections.abc import Sequence

import numpy as np

from components.artifacts.evaluation import Calibration, CalibrationBin, Review, ScanResult, VolumeAgreement
from components.core.intervals import FEWEST
from components.evaluate.calibration_error import expected_calibration_error
from components.evaluate.metrics import patient_means

ROUNDING_ML = 1e-6
"""Rounding error of a cube of a cube root, far less than a voxel."""
FAILED_BELOW = 0.5
FAILURE = f"Dice below {FAILED_BELOW}; so also a scan whose lesion was missed, or a lesion found in a lesion-free scan"


def calibration_errors(before: np.ndarray, after: np.ndarray, temperature: float | None) -> Calibration:
    """Return calibration errors from the summed `reliability` (15, 3) before and after temperature scaling."""
    return Calibration(
        temperature=temperature,
        ece_before=expected_calibration_error(before),
        ece_after=expected_calibration_error(after),
        bins_before=_bins(before),
        bins_after=_bins(after),
    )


def volume_agreement(scans: Sequence[ScanResult], interval_level: float | None) -> VolumeAgreement:
    """Return the agreement of volumes (Bland-Altman 1986): mean difference over patients, and that ± 1.96 SD.

    A patient is covered if the true volume of each of their scans lies in its interval.
    """
    differences = np.array([predicted - true for true, predicted in volume_pairs(scans).values()])
    bias = float(differences.mean()) if len(differences) else None
    low = high = None
    if bias is not None and len(differences) >= FEWEST:
        spread = 1.96 * float(differences.std(ddof=1))
        low, high = bias - spread, bias + spread
    covered: dict[str, bool] = {}
    for scan in scans:
        if scan.predicted_ml_low is not None and scan.predicted_ml_high is not None and scan.truth_ml is not None:
            outside = max(scan.predicted_ml_low - scan.truth_ml, scan.truth_ml - scan.predicted_ml_high)
            covered[scan.patient] = covered.get(scan.patient, True) and outside < ROUNDING_ML
    return VolumeAgreement(
        bias_ml=bias,
        agreement_low_ml=low,
        agreement_high_ml=high,
        interval_level=interval_level if covered else None,
        interval_coverage=float(np.mean(list(covered.values()))) if covered else None,
    )


def volume_pairs(scans: Sequence[ScanResult]) -> dict[str, tuple[float, float]]:
    """Return patient to true and predicted volume in mL, each the mean of the patient's scans."""
    true, predicted = (patient_means(scans, f"{which}_ml") for which in ("truth", "predicted"))
    return {patient: (true[patient], predicted[patient]) for patient in true}


def failed_scans(scans: Sequence[ScanResult]) -> list[ScanResult]:
    """Return the scans that `FAILURE` describes, lowest Dice first, then largest lesion first."""
    failures = [scan for scan in scans if scan.dice < FAILED_BELOW]
    return sorted(failures, key=lambda s: (s.dice, -s.truth_voxels, -s.predicted_voxels, s.case))


def review_counts(scans: Sequence[ScanResult]) -> Review:
    """Count the scans that were flagged for review, those that failed, and those that are both."""
    failures = failed_scans(scans)
    return Review(
        scans=len(scans),
        flagged=sum(bool(scan.needs_review) for scan in scans),
        failures=len(failures),
        failures_flagged=sum(bool(scan.needs_review) for scan in failures),
        failure=FAILURE,
    )


def agreement_summary(calibration: Calibration, volume: VolumeAgreement, review: Review) -> dict[str, float]:
    """Return the numbers that MLflow compares runs by, under their names in the summary, without unknown ones."""
    numbers = {
        "test_ece_before": calibration.ece_before,
        "test_ece_after": calibration.ece_after,
        "test_volume_bias_ml": volume.bias_ml,
        "test_volume_interval_coverage": volume.interval_coverage,
        "test_review_flagged": review.flagged,
        "test_failures": review.failures,
        "test_failures_flagged": review.failures_flagged,
    }
    return {name: value for name, value in numbers.items() if value is not None}


def _bins(rows: np.ndarray) -> list[CalibrationBin]:
    """Convert `reliability` (15, 3): voxels, sum of probabilities, and number of lesion voxels of each bin."""
    return [
        CalibrationBin(
            voxels=int(voxels),
            probability=float(probability / voxels) if voxels else None,
            lesion=float(lesion / voxels) if voxels else None,
        )
        for voxels, probability, lesion in rows
    ]
