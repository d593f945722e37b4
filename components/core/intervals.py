"""Confidence intervals of a mean over patients, for few patients and skewed values.

Their coverage in simulations is in docs/evidence.md, section statistics (`make evidence`).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from scipy import special

FEWEST = 5
"""With fewer patients there is no interval."""
DRAWS = 20_000
"""Random weights, resamples or sign flips. The seed is fixed, so that the same values give the same interval."""
ENUMERATED = 14
"""Up to this number of patients, every sign flip is tried."""
MOST_VALUES = 4_000_000
"""Most random numbers in memory at a time."""
Interval = tuple[float, float]
Make = Callable[[np.random.Generator, int, int], np.ndarray]
"""Makes random rows from a generator, their number and their length."""


def bounded_mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return the interval of the mean of values in [0, 1] (Dice, IoU, F1); None below 5 patients.

    Two one-sided bounds of Gaffke (2005) as Learned-Miller and Thomas (2019) give them. The upper bound is a quantile
    of the mean of the sample and one more value, 1, under weights that are uniform over the simplex (Dirichlet); the
    lower bound uses 0 instead of 1. So a sample without a miss does not claim that misses never happen.

    Raises:
        ValueError: a value is outside [0, 1] or NaN.
    """
    sample = np.sort(np.asarray(values, float))
    if not ((sample >= 0) & (sample <= 1)).all():
        raise ValueError(f"a value outside [0, 1] has no bounded interval: {sample.min():g} to {sample.max():g}")
    if len(sample) < FEWEST:
        return None
    tail, parts = (1 - confidence) / 2, []
    for weights in _drawn(_weights, len(sample) + 1):
        within = weights[:, :-1] @ sample
        parts.append((within, within + weights[:, -1]))
    low, high = (np.concatenate(part) for part in zip(*parts, strict=True))
    return float(np.quantile(low, tail)), float(min(np.quantile(high, 1 - tail), 1))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return the interval of the mean of values without bounds (volumes, counts); None below 5 patients.

    Each end is the wider one of Student's t and of the studentised bootstrap (Efron 1979). If no value is negative, the
    lower end is at least 0. The nominal 95 % interval holds the true mean in 84 to 94 % of simulations with 5 to 20
    lognormal volume differences, in 93 to 96 % with counts, and in 78 % with 5 values most of which are 0: no interval
    can know of a rare huge value that so few patients did not show.
    """
    sample = np.sort(np.asarray(values, float))
    if len(sample) < FEWEST:
        return None
    mean, spread, count = sample.mean(), sample.std(ddof=1), len(sample)
    if spread <= 1e-9 * abs(mean):
        return float(mean), float(mean)
    tail, parts, centred = (1 - confidence) / 2, [], sample - mean
    for times in _drawn(_times, count):
        off = times @ centred / count
        squares = times @ centred**2 / count - off**2
        parts.append((off, np.sqrt(squares.clip(0) * count / (count - 1))))
    off, spreads = (np.concatenate(part) for part in zip(*parts, strict=True))
    # a resample of one repeated value has no spread: the smallest spread of the others is used
    ratios = off / np.maximum(spreads, spreads[spreads > 1e-6 * spread].min())
    student = special.stdtrit(count - 1, 1 - tail) / np.sqrt(count)
    low = mean - spread * max(float(np.quantile(ratios, 1 - tail)), student)
    high = mean - spread * min(float(np.quantile(ratios, tail)), -student)
    return max(low, 0.0) if sample[0] >= 0 else low, high


def paired_interval(differences: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return the interval of the mean of paired differences, one per patient, that the sign-flip test does not reject.

    The sum of the differences minus t stays at least as large as observed after the signs of a subset are flipped if
    and only if the subset's mean is at most t. So the ends are order statistics of the means of subsets (Hartigan
    1969). The lower end is above 0 if and only if the one-sided sign-flip p-value is at most (1 - confidence) / 2.

    None below 5 patients, and if too few flips exist for this confidence (5 patients at 95 %).
    """
    sample = np.sort(np.asarray(differences, float))
    if len(sample) < FEWEST:
        return None
    subsets = [_every(len(sample))] if len(sample) <= ENUMERATED else _drawn(_subsets, len(sample))
    parts, flips = [], 1
    for flipped in subsets:
        sizes = flipped.sum(1)
        parts.append((flipped @ sample)[sizes > 0] / sizes[sizes > 0])
        flips += len(flipped)
    means = np.sort(np.round(np.concatenate(parts), 12))
    # flips of no patient, including the observed signs, are as large as observed for every t
    rank = int(np.floor((1 - confidence) / 2 * flips + 1e-9)) - (flips - len(means))
    return None if rank < 0 else (float(means[rank]), float(means[-1 - rank]))


def _weights(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """Return random weights (rows, count), uniform over the simplex."""
    weights = rng.standard_exponential((rows, count))
    return weights / weights.sum(1, keepdims=True)


def _times(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """Return how often each value is in a resample (rows, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), rows).astype(float)


def _subsets(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """Return 1 for each sign that is flipped, else 0 (rows, count)."""
    return rng.integers(0, 2, (rows, count), np.int8).astype(float)


@lru_cache(maxsize=1)
def _every(count: int) -> np.ndarray:
    """Return all subsets but the empty one, (2**count - 1, count)."""
    return (np.arange(1, 2**count)[:, None] >> np.arange(count) & 1).astype(float)


def _drawn(make: Make, count: int) -> Iterable[np.ndarray]:
    """Return `DRAWS` rows in blocks that fit into memory; a single block is kept for the next interval."""
    if DRAWS * count <= MOST_VALUES:
        return [_kept(make, count)]
    rng, at_once = np.random.default_rng(0), max(1, MOST_VALUES // count)
    return (make(rng, min(at_once, DRAWS - done), count) for done in range(0, DRAWS, at_once))


@lru_cache(maxsize=3)
def _kept(make: Make, count: int) -> np.ndarray:
    return make(np.random.default_rng(0), DRAWS, count)
