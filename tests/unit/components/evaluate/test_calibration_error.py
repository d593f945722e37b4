"""The calibration error, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from components.evaluate.calibration_error import BINS, expected_calibration_error, reliability
from tests.support.overconfident import overconfident


def test_the_error_of_a_hand_worked_case():
    """Three voxels near 0.9 of which one is lesion, one of 0.1 that is not: (3 * |0.9 - 1/3| + 1 * 0.1) / 4."""
    bins = reliability(np.array([0.9, 0.9, 0.9, 0.1]), np.array([True, False, False, False]))
    assert expected_calibration_error(bins) == pytest.approx((3 * (0.9 - 1 / 3) + 0.1) / 4)


def test_bins_are_scikit_learns():
    probability, truth = overconfident(2.0)
    share, mean = calibration_curve(truth, probability, n_bins=BINS)
    voxels, probabilities, lesions = reliability(probability, truth).T
    np.testing.assert_allclose(probabilities / voxels, mean, rtol=1e-5)
    np.testing.assert_allclose(lesions / voxels, share, rtol=1e-5)
    weighted = np.average(np.abs(share - mean), weights=voxels)
    assert expected_calibration_error(reliability(probability, truth)) == pytest.approx(weighted)


def test_bins_of_scans_add_up():
    probability, truth = overconfident(1.0)
    parts = [reliability(p, t) for p, t in zip(np.split(probability, 4), np.split(truth, 4), strict=True)]
    np.testing.assert_allclose(sum(parts), reliability(probability, truth))


def test_without_voxels_there_is_no_error():
    assert expected_calibration_error(np.zeros((BINS, 3))) is None
