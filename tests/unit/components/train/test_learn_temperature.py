"""The temperature, against scikit-learn and against what the probabilities were made with."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from components.evaluate.calibration_error import expected_calibration_error, reliability
from components.model.calibration import COUNTED, calibrated, histogram
from components.train.learn_temperature import fitted_temperature
from tests.support.overconfident import overconfident
from tests.support.trained import trained


def fitted(probability: np.ndarray, truth: np.ndarray) -> float:
    return fitted_temperature(histogram(probability[~truth]), histogram(probability[truth]))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_temperature_that_spoilt_the_probabilities_is_found(temperature):
    assert fitted(*overconfident(temperature)) == pytest.approx(temperature, rel=0.03)


def test_it_is_the_one_with_the_least_log_loss_by_scikit_learn():
    probability, truth = overconfident(1.8)
    counted = probability >= COUNTED
    z, truth_counted = logit(probability[counted].astype(float)), truth[counted]

    def loss(t):
        return log_loss(truth_counted, expit(z / t))

    best = minimize_scalar(loss, bounds=(0.5, 5), method="bounded").x
    found = fitted(probability, truth)
    assert found == pytest.approx(best, rel=2e-3)
    assert loss(found) < loss(1.0)


def test_histograms_of_parts_add_up_to_that_of_the_whole():
    probability, _ = overconfident(2.0)
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


def test_the_temperature_found_on_some_mends_others():
    temperature = fitted(*overconfident(2.5, seed=0))
    probability, truth = overconfident(2.5, seed=1)
    before, after = (
        expected_calibration_error(reliability(p, truth))
        for p in (probability, calibrated(probability, trained(temperature=temperature)))
    )
    assert after < before / 5
