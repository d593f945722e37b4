"""How sure a mean over patients is: by hand, by slow implementations of the definitions, and by simulation."""

import itertools
import time

import numpy as np
import pytest
from scipy import stats

from components.core.intervals import FEWEST, bounded_mean_interval, mean_interval, paired_interval

RNG = np.random.default_rng
METHODS = (bounded_mean_interval, mean_interval, paired_interval)


def covered(method, samples: np.ndarray, mean: float) -> float:
    """Share of the samples (R, n) whose interval holds the true mean."""
    intervals = np.array([method(sample) for sample in samples])
    return float(np.mean((intervals[:, 0] <= mean) & (mean <= intervals[:, 1])))


def dices(rng, shape: tuple[int, int], missed: float = 0.0) -> np.ndarray:
    """Dice like Beta(5, 2), a share of them 0: a lesion that was missed."""
    return rng.beta(5, 2, shape) * (rng.random(shape) >= missed)


@pytest.mark.parametrize("method", METHODS)
def test_below_five_patients_there_is_no_interval(method):
    values = [0.2, 0.4, 0.5, 0.9, 0.3, 0.7]
    assert [method(values[:n]) for n in range(FEWEST)] == [None] * 5
    assert method(values) is not None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [8, 30])
def test_an_interval_lies_around_the_mean_and_does_not_depend_on_the_order(method, count):
    values = RNG(3).beta(4, 2, count)
    low, high = method(values.tolist())
    assert low < values.mean() < high
    assert method(values[::-1]) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_more_confidence_is_a_wider_interval(method):
    values = RNG(3).beta(4, 2, 12)
    ends = [method(values, confidence=confidence) for confidence in (0.8, 0.95, 0.99)]
    assert ends[2][0] < ends[1][0] < ends[0][0] < ends[0][1] < ends[1][1] < ends[2][1]


@pytest.mark.parametrize("count", [5, 10, 20])
def test_gaffkes_bound_of_a_perfect_sample_is_clopper_pearsons(count):
    """All 1: the lower end is 1 less the 97.5 % quantile of Beta(1, n), so 0.025 ** (1 / n)."""
    low, high = bounded_mean_interval([1.0] * count)
    assert low == pytest.approx(0.025 ** (1 / count), abs=0.01)
    assert high == 1
    exact = stats.binomtest(count, count).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_gaffkes_bound_of_a_bad_sample_mirrors_that_of_a_good_one():
    values = RNG(1).beta(5, 2, 10)
    low, high = bounded_mean_interval(values)
    assert bounded_mean_interval(1 - values) == pytest.approx((1 - high, 1 - low), abs=0.01)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("count", [5, 12])
def test_gaffkes_bound_is_the_one_of_uniform_order_statistics(count):
    """Learned-Miller and Thomas 2019, equation 2: 1 - sum over i of U(i) (z(i + 1) - z(i)), z(n + 1) = 1."""
    values = sorted(RNG(count).beta(2, 2, count).tolist())

    def upper(sample: list[float]) -> float:
        rng, means = RNG(7), []
        for _ in range(20_000):
            uniform = sorted(rng.random(count))
            steps = zip(uniform, itertools.pairwise([*sample, 1.0]), strict=True)
            means.append(1 - sum(u * (after - before) for u, (before, after) in steps))
        return float(np.quantile(means, 0.975))

    expected = (1 - upper(sorted(1 - v for v in values)), upper(values))
    assert bounded_mean_interval(values) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_has_no_bounded_interval(bad):
    with pytest.raises(ValueError, match="outside"):
        bounded_mean_interval([0.1, 0.2, 0.3, 0.4, bad])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("count", [5, 10, 20])
@pytest.mark.parametrize("missed", [0, 0.05, 0.1], ids=["none missed", "one in twenty", "one in ten"])
def test_the_interval_of_dice_covers_with_few_patients_and_missed_lesions(count, missed):
    samples = dices(RNG(count), (250, count), missed)
    assert covered(bounded_mean_interval, samples, 5 / 7 * (1 - missed)) >= 0.93


@pytest.mark.parametrize(("count", "width"), [(10, 0.41), (20, 0.28)])
def test_the_interval_of_dice_is_no_wider_than_it_was_found_to_be(count, width):
    """With one patient in ten missed."""
    ends = np.array([bounded_mean_interval(sample) for sample in dices(RNG(count), (200, count), 0.1)])
    assert np.diff(ends).mean() == pytest.approx(width, abs=0.03)


def flips_as_large(differences, mean: float) -> float:
    """One-sided p-value of the sign-flip test that the mean is no more than this: by trying every sign."""
    off = np.round(np.asarray(differences, float) - mean, 9)
    signs = itertools.product((1, -1), repeat=len(off))
    return float(np.mean([np.dot(s, off) >= off.sum() - 1e-9 for s in signs]))


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("count", [6, 9])
def test_the_paired_interval_holds_what_the_sign_flip_test_does_not_reject(count, confidence):
    values = RNG(count).normal(0.02, 0.1, count)
    low, high = paired_interval(values, confidence)
    tail, step = (1 - confidence) / 2, 1e-4
    assert flips_as_large(values, low - step) <= tail + 1e-9 < flips_as_large(values, low + step)
    assert flips_as_large(-values, -high - step) <= tail + 1e-9 < flips_as_large(-values, -high + step)


def test_the_paired_interval_of_six_is_from_the_smallest_to_the_largest():
    """64 flips: only that of nobody has a p-value, 1 / 64, below 0.025."""
    assert paired_interval([0.3, 0.1, 0.2, 0.6, 0.4, 0.5]) == (0.1, 0.6)


def test_the_paired_interval_of_seven_by_hand():
    """128 flips, so the fourth smallest mean of a subset: those of 1, 1 and 2, 1 and 4, 2 come first."""
    assert paired_interval([1, 2, 4, 8, 16, 32, 64])[0] == 2
    assert sorted({1, 1.5, 2, 2.5, 7 / 3})[:4] == [1, 1.5, 2, 7 / 3]


def test_five_pairs_have_no_interval_at_95_percent_and_one_at_90():
    """32 flips: the least p-value is 1 / 32, above 0.025."""
    values = [0.3, 0.1, 0.2, 0.5, 0.4]
    assert paired_interval(values) is None
    assert paired_interval(values, 0.9) == (0.1, 0.5)


@pytest.mark.parametrize("seed", range(40))
def test_the_lower_end_is_above_zero_exactly_where_the_sign_flip_test_rejects(seed):
    """With ties and zeros, which rounding must not turn into a promotion."""
    values = np.round(RNG(seed).normal(0.05, 0.06, 8), 1 + seed % 2)
    p = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="greater", vectorized=False
    ).pvalue
    assert (paired_interval(values)[0] > 0) == (p <= 0.025)


def test_both_answers_of_that_test_came_up():
    lows = [paired_interval(np.round(RNG(s).normal(0.05, 0.06, 8), 1 + s % 2))[0] > 0 for s in range(40)]
    assert 5 < sum(lows) < 35


def test_equal_models_differ_by_exactly_nothing():
    assert paired_interval([0.0] * 10) == (0, 0)
    assert paired_interval([0.0] * 40) == (0, 0)


def test_random_flips_agree_with_all_of_them():
    """Twenty patients: a million subsets, of which 20,000 are drawn."""
    values = RNG(4).normal(0.02, 0.05, 20)
    subsets = np.arange(1, 2**20)[:, None] >> np.arange(20) & 1
    means = np.sort(subsets @ values / subsets.sum(1))
    rank = int(0.025 * 2**20)
    width = means[-rank] - means[rank]
    assert paired_interval(values) == pytest.approx((means[rank], means[-1 - rank]), abs=0.03 * width)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_with_many_patients_the_paired_interval_is_nearly_that_of_the_t_test(confidence):
    values = RNG(4).normal(0.02, 0.03, 40)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert paired_interval(values, confidence) == pytest.approx(tuple(theirs), abs=0.06 * (theirs.high - theirs.low))


def test_two_hundred_pairs_take_no_time():
    values = RNG(4).normal(0.02, 0.03, 200)
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        paired_interval(values)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.5  # 0.07 s alone on a machine


@pytest.mark.sampled(3)
@pytest.mark.parametrize("missed", [0, 0.05, 0.1], ids=["none missed", "one in twenty", "one in ten"])
def test_an_equal_model_is_promoted_in_at_most_three_of_a_hundred(missed):
    """Ten patients, alike for both models, each of which misses some of its own."""
    rng = RNG(int(100 * missed))
    patient = rng.beta(5, 2, (3000, 10, 1))
    pairs = np.clip(patient + rng.normal(0, 0.08, (3000, 10, 2)), 0, 1) * (rng.random((3000, 10, 2)) >= missed)
    promoted = np.mean([paired_interval(row)[0] > 0 for row in pairs[..., 0] - pairs[..., 1]])
    assert 0.005 < promoted <= 0.03


def test_a_better_model_is_found_out():
    rng = RNG(5)
    differences = rng.normal(0.1, 0.1, (300, 10))
    assert np.mean([paired_interval(row)[0] > 0 for row in differences]) > 0.75


def test_the_interval_of_volumes_knows_no_volume_below_nothing():
    assert mean_interval([0.0, 0.0, 0.0, 0.1, 9.0])[0] == 0
    assert mean_interval([-1.0, 0.5, 0.2, 0.1, 0.3])[0] < 0


def test_the_interval_of_equal_volumes_is_their_value():
    assert mean_interval([2.0] * 6) == (2, 2)
    assert mean_interval([0.0] * 6) == (0, 0)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "at_least"), [("lognormal", 0.86), ("counts", 0.93), ("half normal", 0.93)])
@pytest.mark.parametrize("count", [5, 10, 20])
def test_the_interval_of_volumes_covers_what_its_docstring_says(name, at_least, count):
    rng, shape = RNG(count), (300, count)
    samples, mean = {
        "lognormal": lambda: (rng.lognormal(0, 1, shape), np.exp(0.5)),
        "counts": lambda: (rng.poisson(1.5, shape), 1.5),
        "half normal": lambda: (abs(rng.normal(size=shape)), np.sqrt(2 / np.pi)),
    }[name]()
    assert covered(mean_interval, samples, mean) >= at_least


def test_the_interval_of_volumes_is_the_wider_of_t_and_a_studentised_bootstrap():
    """A bootstrap of fifty thousand resamples with a loop, and scipy's t."""
    sample = RNG(2).lognormal(1, 1, 9)
    rng, ratios = RNG(8), []
    for _ in range(50_000):
        drawn = rng.choice(sample, 9)
        if drawn.std() > 0:
            ratios.append((drawn.mean() - sample.mean()) / (drawn.std(ddof=1) / 3))
    low, high = (sample.mean() - np.quantile(ratios, q) * sample.std(ddof=1) / 3 for q in (0.975, 0.025))
    t = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    expected = (max(0, min(low, t.low)), max(high, t.high))
    assert expected[1] > t.high + 1  # the bootstrap counts, or this compares nothing
    assert mean_interval(sample) == pytest.approx(expected, rel=0.04)
