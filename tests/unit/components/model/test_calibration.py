"""Probabilities that mean what they say, against scikit-learn and against what the probabilities were made of."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from components.model.calibration import (
    BINS,
    COUNTED,
    calibrated,
    expected_calibration_error,
    fitted_temperature,
    histogram,
    reliability,
)
from tests.support.trained import trained

VOXELS = 200_000


def drawn(temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a network whose logits are `temperature` times too large, and the truth they stand for."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, VOXELS)
    truth = rng.random(VOXELS) < expit(honest)
    return expit(temperature * honest).astype(np.float32), truth


def fitted(probability: np.ndarray, truth: np.ndarray) -> float:
    return fitted_temperature(histogram(probability[~truth]), histogram(probability[truth]))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_temperature_that_spoilt_the_probabilities_is_found(temperature):
    assert fitted(*drawn(temperature)) == pytest.approx(temperature, rel=0.03)


def test_it_is_the_one_with_the_least_log_loss_by_scikit_learn():
    probability, truth = drawn(1.8)
    counted = probability >= COUNTED
    z, truth_counted = logit(probability[counted].astype(float)), truth[counted]

    def loss(t):
        return log_loss(truth_counted, expit(z / t))

    best = minimize_scalar(loss, bounds=(0.5, 5), method="bounded").x
    found = fitted(probability, truth)
    assert found == pytest.approx(best, rel=2e-3)
    assert loss(found) < loss(1.0)


def test_histograms_of_parts_add_up_to_that_of_the_whole():
    probability, _ = drawn(2.0)
    parts = sum(histogram(part) for part in np.split(probability, 10))
    assert (parts == histogram(probability)).all()
    assert parts.sum() == (probability >= COUNTED).sum()


def test_probabilities_of_0_and_1_are_counted_or_left_out_and_break_nothing():
    both = np.array([0, 1], np.float32)
    assert histogram(both).sum() == 1
    again = calibrated(both, trained(temperature=2.0))
    assert np.isfinite(again).all()
    assert again[0] < 1e-4 and again[1] > 0.999


@pytest.mark.parametrize("truth", [True, False])
def test_of_one_truth_nothing_is_learnt(truth):
    probability = np.full(10, 0.3)
    assert fitted(probability, np.full(10, truth)) == 1


def test_calibrated_is_the_formula_and_keeps_order_and_shape():
    probability = np.linspace(0.001, 0.999, 24, dtype=np.float32).reshape(2, 3, 4)
    out = calibrated(probability, trained(temperature=2.0))
    odds = np.sqrt(probability / (1 - probability))  # half the logit
    np.testing.assert_allclose(out, odds / (1 + odds), rtol=1e-5)
    assert out.dtype == np.float32
    assert (np.diff(out.ravel()) > 0).all()


def test_a_model_that_knows_no_temperature_leaves_probabilities_as_they_are():
    probability = np.array([0, 0.2, 1], np.float32)
    assert calibrated(probability, trained()) is probability


def test_the_error_of_a_hand_worked_case():
    """Three voxels near 0.9 of which one is lesion, one of 0.1 that is not: (3 * |0.9 - 1/3| + 1 * 0.1) / 4."""
    bins = reliability(np.array([0.9, 0.9, 0.9, 0.1]), np.array([True, False, False, False]))
    assert expected_calibration_error(bins) == pytest.approx((3 * (0.9 - 1 / 3) + 0.1) / 4)


def test_bins_are_scikit_learns():
    probability, truth = drawn(2.0)
    share, mean = calibration_curve(truth, probability, n_bins=BINS)
    voxels, probabilities, lesions = reliability(probability, truth).T
    np.testing.assert_allclose(probabilities / voxels, mean, rtol=1e-5)
    np.testing.assert_allclose(lesions / voxels, share, rtol=1e-5)
    weighted = np.average(np.abs(share - mean), weights=voxels)
    assert expected_calibration_error(reliability(probability, truth)) == pytest.approx(weighted)


def test_bins_of_scans_add_up():
    probability, truth = drawn(1.0)
    parts = [reliability(p, t) for p, t in zip(np.split(probability, 4), np.split(truth, 4), strict=True)]
    np.testing.assert_allclose(sum(parts), reliability(probability, truth))


def test_without_voxels_there_is_no_error():
    assert expected_calibration_error(np.zeros((BINS, 3))) is None


def test_the_temperature_found_on_some_mends_others():
    temperature = fitted(*drawn(2.5, seed=0))
    probability, truth = drawn(2.5, seed=1)
    before, after = (
        expected_calibration_error(reliability(p, truth))
        for p in (probability, calibrated(probability, trained(temperature=temperature)))
    )
    assert after < before / 5
