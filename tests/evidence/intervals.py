"""Intervals of the mean that the pipeline does not use, or no longer: what its own are compared with."""

from functools import lru_cache

import numpy as np
from scipy import stats

RESAMPLES = 2000
Interval = tuple[float, float]


def percentile(sample: np.ndarray) -> Interval:
    """Return the percentile bootstrap interval (Efron 1979): what the pipeline used before."""
    return tuple(np.percentile(_resampled(sample).mean(1), (2.5, 97.5)))


def student(sample: np.ndarray) -> Interval:
    """Return Student's t interval."""
    half = stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample))
    return sample.mean() - half, sample.mean() + half


def studentised(sample: np.ndarray) -> Interval:
    """Return the studentised bootstrap interval; resamples of one value alone are left out."""
    drawn = _resampled(sample)
    spreads = drawn.std(1, ddof=1)
    kept = spreads > 1e-9 * sample.std()
    if not kept.any():
        return sample.mean(), sample.mean()
    low, high = np.percentile((drawn.mean(1) - sample.mean())[kept] / spreads[kept], (2.5, 97.5))
    return sample.mean() - high * sample.std(ddof=1), sample.mean() - low * sample.std(ddof=1)


def bca(sample: np.ndarray) -> Interval:
    """Return the bias-corrected and accelerated bootstrap interval (Efron 1987)."""
    means, mean = _resampled(sample).mean(1), sample.mean()
    below = np.clip((means < mean).mean() + (means == mean).mean() / 2, 0.001, 0.999)
    left_out = (sample.sum() - sample) / (len(sample) - 1)
    off = left_out.mean() - left_out
    spread = (off**2).sum() ** 1.5
    acceleration = (off**3).sum() / (6 * spread) if spread else 0.0
    shift = stats.norm.ppf(below)
    points = [shift + z for z in stats.norm.ppf((0.025, 0.975))]
    levels = [100 * stats.norm.cdf(shift + p / (1 - acceleration * p)) for p in points]
    return tuple(np.percentile(means, levels))


def hall(sample: np.ndarray) -> Interval:
    """Return the interval of t on Hall's (1992) scale, which takes the skewness out."""
    count, mean, spread = len(sample), sample.mean(), sample.std(ddof=1)
    skewness = ((sample - mean) ** 3).mean() / spread**3 if spread else 0.0
    if abs(skewness) < 1e-9:
        return student(sample)
    t = stats.t.ppf(0.975, count - 1) / np.sqrt(count)
    ends = (3 / skewness * (np.cbrt(1 + skewness * (q - skewness / (6 * count))) - 1) for q in (t, -t))
    low, high = (mean - spread * end for end in ends)
    return low, high


def _resampled(sample: np.ndarray) -> np.ndarray:
    return sample[_indices(len(sample))]


@lru_cache(maxsize=1)
def _indices(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
