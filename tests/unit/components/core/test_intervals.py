"""How sure a mean over patients is: against scipy's bootstrap and Student's t."""

import numpy as np
import pytest
from scipy import stats

from components.core.intervals import confidence_interval


@pytest.fixture(scope="module")
def sample():
    return np.random.default_rng(3).beta(4, 2, 25).tolist()


def test_the_confidence_interval_is_scipys_percentile_bootstrap(sample):
    ours = confidence_interval(sample)
    theirs = stats.bootstrap((sample,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.06 * width)


def test_the_confidence_interval_lies_around_the_mean(sample):
    low, high = confidence_interval(sample)
    assert low < np.mean(sample) < high


def test_the_confidence_interval_repeats_and_its_seed_matters(sample):
    assert confidence_interval(sample) == confidence_interval(sample)
    assert confidence_interval(sample) != confidence_interval(sample, seed=1)


def test_the_confidence_interval_narrows_with_the_square_root_of_the_patients(sample):
    width = {n: np.subtract(*reversed(confidence_interval(sample * n))) for n in (1, 4)}
    assert width[1] / width[4] == pytest.approx(2, rel=0.1)


def test_the_confidence_interval_of_one_patient_is_its_value():
    assert confidence_interval([0.7]) == (0.7, 0.7)


@pytest.fixture
def pairs() -> np.ndarray:
    """Dice of forty patients with two models, (40, 2): unlike patients, and much alike models."""
    rng = np.random.default_rng(4)
    patient = rng.beta(4, 2, 40)
    return np.clip(np.stack([patient + 0.02, patient], 1) + rng.normal(0, 0.03, (40, 2)), 0, 1)


def test_the_paired_interval_is_scipys_paired_bootstrap(pairs):
    theirs = stats.bootstrap(
        tuple(pairs.T), lambda new, old, axis: np.mean(new - old, axis), paired=True, vectorized=True,
        n_resamples=20_000, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    ours = confidence_interval((pairs[:, 0] - pairs[:, 1]).tolist())
    assert ours == pytest.approx(tuple(theirs), abs=0.06 * (theirs.high - theirs.low))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_paired_interval_is_nearly_that_of_the_paired_t_test(pairs, confidence):
    theirs = stats.ttest_rel(*pairs.T).confidence_interval(confidence)
    ours = confidence_interval((pairs[:, 0] - pairs[:, 1]).tolist(), confidence=confidence)
    assert ours == pytest.approx(tuple(theirs), abs=0.1 * (theirs.high - theirs.low))


def test_pairs_tell_more_than_two_means_apart(pairs):
    paired = confidence_interval((pairs[:, 0] - pairs[:, 1]).tolist())
    alone = [confidence_interval(values.tolist()) for values in pairs.T]
    assert paired[0] > 0
    assert alone[0][0] < alone[1][1]
