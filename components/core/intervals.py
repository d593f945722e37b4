"""How sure a mean over patients is: intervals that hold with few patients and skewed values.

What each of them covers in simulation is in docs/evidence.md, section statistics (`make evidence`).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import special

FEWEST = 5
"""Below so many patients there is no interval."""
DRAWS = 20_000
"""Random weights, resamples or sign flips; always of one seed, so that the same values give the same interval."""
ENUMERATED = 14
"""Up to so many patients every sign flip is tried."""
MOST_VALUES = 4_000_000
"""Random numbers held in memory at a time."""
Interval = tuple[float, float]


def bounded_mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return the interval of the mean of values in [0, 1] (Dice, IoU, F1); None below 5 patients.

    Two one-sided bounds of Gaffke (2005) as Learned-Miller and Thomas (2019) give them. The upper one is a quantile of
    the mean under weights that are uniform over the simplex (Dirichlet), with one value more, 1, beside the sample; the
    lower one the same with 0. So a sample without a miss does not claim that misses never happen.

    Raises:
        ValueError: a value lies outside [0, 1] or is NaN.
    """
    sample = np.sort(np.asarray(values, float))
    if not ((sample >= 0) & (sample <= 1)).all():
        raise ValueError(f"a value outside [0, 1] has no bounded interval: {sample.min():g} to {sample.max():g}")
    if len(sample) < FEWEST:
        return None
    rng, tail, parts = np.random.default_rng(0), (1 - confidence) / 2, []
    for rows in _chunks(DRAWS, len(sample) + 1):
        weights = rng.standard_exponential((rows, len(sample) + 1))
        weights /= weights.sum(1, keepdims=True)
        within = weights[:, :-1] @ sample
        parts.append((within, within + weights[:, -1]))
    low, high = (np.concatenate(part) for part in zip(*parts, strict=True))
    return float(np.quantile(low, tail)), float(min(np.quantile(high, 1 - tail), 1))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return the interval of the mean of values without bounds (volumes, counts); None below 5 patients.

    The wider end of Student's t and of the studentised bootstrap (Efron 1979). Of values that are all 0 or more, the
    lower end is 0 at least. What it holds the true mean in, meant 95 %: of volume differences like the lognormal ones
    of docs/evidence.md 86 to 92 %, of counts 95 %. The rest are means that a rare huge value makes, which so few
    patients did not show: no method that assumes no distribution holds there.
    """
    sample = np.sort(np.asarray(values, float))
    if len(sample) < FEWEST:
        return None
    mean, spread, count = sample.mean(), sample.std(ddof=1), len(sample)
    if spread <= 1e-9 * abs(mean):
        return float(mean), float(mean)
    rng, tail, parts = np.random.default_rng(0), (1 - confidence) / 2, []
    for rows in _chunks(DRAWS, count):
        drawn = sample[rng.integers(0, count, (rows, count))]
        parts.append((drawn.mean(1) - mean, drawn.std(1, ddof=1)))
    off, spreads = (np.concatenate(part) for part in zip(*parts, strict=True))
    # a resample of one value alone has no spread: it counts with the least that another has
    ratios = off / np.maximum(spreads, spreads[spreads > 1e-9 * spread].min())
    student = special.stdtrit(count - 1, 1 - tail) / np.sqrt(count)
    low = mean - spread * max(float(np.quantile(ratios, 1 - tail)), student)
    high = mean - spread * min(float(np.quantile(ratios, tail)), -student)
    return max(low, 0.0) if sample[0] >= 0 else low, high


def paired_interval(differences: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return the interval of the mean paired difference, one a patient, that the sign-flip test does not reject.

    Flipping the signs of a subset leaves the sum of differences less t as large as observed exactly where the subset's
    own mean is at most t, so the ends are order statistics of the means of subsets (Hartigan 1969). The lower end is
    above 0 exactly where the one-sided sign-flip p-value is at most (1 - confidence) / 2.

    None below 5 patients, and where so few flips exist that none is improbable enough (5 patients at 95 %).
    """
    sample = np.sort(np.asarray(differences, float))
    if len(sample) < FEWEST:
        return None
    parts, flips = [], 1
    for subsets in _subsets(len(sample)):
        sizes = subsets.sum(1)
        parts.append((subsets @ sample)[sizes > 0] / sizes[sizes > 0])
        flips += len(subsets)
    means = np.sort(np.round(np.concatenate(parts), 12))
    # the flips of nobody, the observed one among them, are as large as observed whatever t is
    rank = int(np.floor((1 - confidence) / 2 * flips + 1e-9)) - (flips - len(means))
    return None if rank < 0 else (float(means[rank]), float(means[-1 - rank]))


def _subsets(count: int) -> Iterator[np.ndarray]:
    """Subsets of so many patients as rows of 0 and 1: each but the empty one once, or `DRAWS` - 1 at random."""
    if count <= ENUMERATED:
        yield (np.arange(1, 2**count)[:, None] >> np.arange(count) & 1).astype(float)
        return
    rng = np.random.default_rng(0)
    for rows in _chunks(DRAWS - 1, count):
        yield rng.integers(0, 2, (rows, count), np.int8).astype(float)


def _chunks(rows: int, columns: int) -> Iterator[int]:
    """Numbers of rows, together `rows`, none of which is too many to hold at once."""
    at_once = max(1, MOST_VALUES // columns)
    while rows > 0:
        yield min(rows, at_once)
        rows -= at_once
