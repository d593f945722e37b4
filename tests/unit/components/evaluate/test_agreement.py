"""Statements of the model against the truth of the test patients."""

import json

import numpy as np
import pytest

from components.artifacts.evaluation import CalibrationBin, ScanResult
from components.artifacts.trained_model import VolumeInterval
from components.evaluate.agreement import (
    agreement_summary,
    calibration_errors,
    failed_scans,
    review_counts,
    volume_agreement,
)
from components.evaluate.calibration_error import reliability
from components.model.uncertainty import volume_interval

LEVEL = 0.9


def volumes(result, *pairs: tuple[float, float]) -> list[ScanResult]:
    return [result(str(i), truth_ml=t, predicted_ml=p) for i, (t, p) in enumerate(pairs)]


def test_bias_and_limits_of_a_hand_worked_case(result):
    """Differences 1, 1, 2, 3 and 3: mean 2, standard deviation 1."""
    found = volume_agreement(volumes(result, (1, 2), (10, 12), (20, 23), (5, 6), (7, 10)), None)
    assert found.bias_ml == pytest.approx(2)
    assert (found.agreement_low_ml, found.agreement_high_ml) == pytest.approx((2 - 1.96, 2 + 1.96))


def test_limits_are_scipys(result):
    from scipy.stats import describe, norm

    pairs = np.random.default_rng(0).uniform(0, 50, (20, 2))
    found = volume_agreement(volumes(result, *map(tuple, pairs.tolist())), None)
    theirs = describe(pairs[:, 1] - pairs[:, 0])
    limits = norm.interval(0.95, theirs.mean, np.sqrt(theirs.variance))
    assert (found.agreement_low_ml, found.agreement_high_ml) == pytest.approx(limits, rel=1e-3)


def test_a_patient_counts_once(result):
    scans = [result(patient, truth_ml=1, predicted_ml=ml) for patient, ml in (("A", 2), ("A", 4), ("B", 1))]
    assert volume_agreement(scans, None).bias_ml == pytest.approx((2 + 0) / 2)


def test_four_patients_have_no_limits(result):
    found = volume_agreement(volumes(result, (1, 2), (10, 12), (1, 2), (10, 12)), None)
    assert (found.bias_ml, found.agreement_low_ml, found.agreement_high_ml) == (1.5, None, None)


def test_without_voxel_sizes_all_values_are_unknown(result):
    found = volume_agreement([result("A", truth_ml=None, predicted_ml=None)], LEVEL)
    assert set(found.model_dump().values()) == {None}


def test_coverage_is_of_patients_all_of_whose_scans_are_inside(result):
    def text(patient, truth):
        return result(patient, truth_ml=truth, predicted_ml_low=1.0, predicted_ml_high=3.0)

    scans = [text("A", 2.0), text("A", 3.5), text("B", 1.0), text("C", 3.0), text("D", 0.9)]
    found = volume_agreement(scans, LEVEL)
    assert (found.interval_coverage, found.interval_level) == (0.5, 0.9)


def test_an_end_of_the_interval_is_inside_despite_rounding(result):
    """A lesion missed in the test as large as the one missed in validation, of which the interval was learnt."""
    for ml in np.arange(1, 60) * 0.02:
        _, high, _ = volume_interval(0.0, VolumeInterval(level=0.5, cube_root_ml=float(np.cbrt(ml)), patients=1))
        missed = result("A", truth_ml=float(ml), predicted_ml=0.0, predicted_ml_low=0.0, predicted_ml_high=high)
        assert volume_agreement([missed], LEVEL).interval_coverage == 1


def test_a_model_that_gives_no_interval_has_no_coverage(result):
    found = volume_agreement([result("A")], None)
    assert (found.interval_coverage, found.interval_level) == (None, None)


def test_a_failure_is_a_bad_dice_a_miss_or_a_false_lesion(result, free):
    scans = [
        result("good", dice=0.5), result("bad", dice=0.49), result("missed", dice=0.0, lesions_found=0),
        free("quiet"), free("false", dice=0.0, false_lesions=1, predicted_ml=1.0, predicted_voxels=9),
    ]  # fmt: skip
    assert [scan.case for scan in failed_scans(scans)] == ["missed", "false", "bad"]


def test_of_equal_failures_the_largest_missed_lesion_comes_first(result):
    scans = [result(name, dice=0.0, truth_voxels=voxels) for name, voxels in (("A", 5), ("B", 50), ("C", 20))]
    assert [scan.case for scan in failed_scans(scans)] == ["B", "C", "A"]


def test_the_hit_rate_of_the_calls_for_review(result):
    scans = [
        result("A", dice=0.1, needs_review=["noise"]), result("B", dice=0.1), result("C", needs_review=["slices"]),
        result("D"), result("E"),
    ]  # fmt: skip
    found = review_counts(scans).model_dump()
    assert "Dice below 0.5" in found.pop("failure")
    assert found == {"scans": 5, "flagged": 2, "failures": 2, "failures_flagged": 1}


def test_calibration_errors_are_given_before_and_after():
    truth = np.array([True, False, False, False, True])
    before, after = (reliability(np.full(5, p), truth) for p in (0.9, 0.4))
    found = calibration_errors(before, after, 1.7)
    assert (found.temperature, found.ece_before) == (1.7, pytest.approx(0.5))
    assert found.ece_after == pytest.approx(0)
    assert len(found.bins_before) == 15
    assert found.bins_before[13].model_dump() == pytest.approx({"voxels": 5, "probability": 0.9, "lesion": 0.4})
    assert found.bins_before[0] == CalibrationBin(voxels=0, probability=None, lesion=None)


def test_the_summary_has_the_main_numbers_without_unknown_ones(result):
    nothing = np.zeros((15, 3))
    scans = [result("A", dice=0.1, needs_review=["noise"]), result("B")]
    found = agreement_summary(
        calibration_errors(nothing, nothing, None), volume_agreement(scans, None), review_counts(scans)
    )
    assert found == {
        "test_volume_bias_ml": -0.5, "test_review_flagged": 1, "test_failures": 1, "test_failures_flagged": 1,
    }  # fmt: skip
    assert json.loads(json.dumps(found, allow_nan=False)) == found
