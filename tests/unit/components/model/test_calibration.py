"""Calibrated probabilities against the formula."""

import numpy as np

from components.model.calibration import calibrated
from tests.support.trained import trained


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
