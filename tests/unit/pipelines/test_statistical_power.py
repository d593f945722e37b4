"""What a number of patients can show: against tables and simulated studies."""

import numpy as np
import pytest
from scipy import stats

from pipelines.statistical_power import detectable_difference, half_width


@pytest.mark.parametrize("patients", [5, 10, 40])
def test_the_expected_width_is_that_of_simulated_intervals(patients):
    samples = np.random.default_rng(0).normal(0.6, 0.25, (20_000, patients))
    low, high = stats.t.interval(0.95, patients - 1, samples.mean(1), stats.sem(samples, axis=1))
    assert 2 * half_width(patients, 0.25) == pytest.approx(np.sqrt(np.mean((high - low) ** 2)), rel=0.01)


@pytest.mark.parametrize("patients", [6, 10, 34, 199])
def test_a_search_through_the_powers_of_scipy_finds_the_same_effect(patients):
    effects = np.linspace(0.01, 2, 200_001)
    powers = stats.nct.sf(stats.t.ppf(0.975, patients - 1), patients - 1, effects * np.sqrt(patients))
    difference = detectable_difference(patients, spread=1, correlation=0.5)  # the differences have the spread 1
    assert difference == pytest.approx(effects[np.argmax(powers >= 0.8)], abs=2e-5)


@pytest.mark.parametrize("patients", [6, 12, 60])
def test_a_simulated_study_finds_the_difference_in_four_of_five(patients):
    spread, correlation, rng = 0.25, 0.8, np.random.default_rng(1)
    difference = detectable_difference(patients, spread, correlation)
    covariance = spread**2 * np.array([[1, correlation], [correlation, 1]])
    models = rng.multivariate_normal([0.6, 0.6 + difference], covariance, (20_000, patients))
    p_values = stats.ttest_rel(models[..., 1], models[..., 0], axis=1).pvalue
    assert np.mean(p_values < 0.05) == pytest.approx(0.8, abs=0.012)


def test_more_patients_show_more():
    assert half_width(40, 0.25) < half_width(10, 0.25)
    assert detectable_difference(40, 0.25) < detectable_difference(10, 0.25)
    assert detectable_difference(10, 0.1) < detectable_difference(10, 0.25)


def test_too_few_patients_show_nothing():
    assert half_width(4, 0.25) is None and half_width(5, 0.25) is not None
    assert detectable_difference(5, 0.25) is None and detectable_difference(6, 0.25) is not None
