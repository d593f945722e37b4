import numpy as np
import pytest
from scipy import stats

from components.core.usual_range import prediction_bound


def test_a_bound_by_hand():
    """1, 2, 3: mean 2, s 1; Student's t of two degrees of freedom has 0.05 above 2.92."""
    assert prediction_bound([1, 2, 3], 0.05) == pytest.approx(2 + 2.91999 * np.sqrt(4 / 3), abs=1e-4)
    assert prediction_bound([1, 2, 3], 0.05, lower=True) == pytest.approx(2 - 2.91999 * np.sqrt(4 / 3), abs=1e-4)


@pytest.mark.parametrize("patients", [3, 5, 19])
@pytest.mark.parametrize("exceeded", [0.005, 0.025])
def test_one_more_value_exceeds_it_as_often_as_it_says(patients, exceeded):
    rng = np.random.default_rng(patients)
    draws = rng.normal(10, 3, (20_000, patients + 1))
    times = sum(draw[-1] > prediction_bound(draw[:-1], exceeded) for draw in draws)
    low, high = stats.binom.interval(0.999, len(draws), exceeded)
    assert low <= times <= high


def test_the_largest_of_five_is_exceeded_far_more_often():
    draws = np.random.default_rng(0).normal(size=(20_000, 6))
    assert (draws[:, -1] > draws[:, :-1].max(1)).mean() == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_of_fewer_than_two_values_there_is_none(values):
    assert prediction_bound(values, 0.05) is None
