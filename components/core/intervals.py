"""How sure a mean over patients is."""

import numpy as np

BOOTSTRAPS = 2000


def confidence_interval(values: list[float], seed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over patients (Efron 1979), 2000 resamples.

    Of paired differences, one a patient, it is the paired interval.
    """
    sample = np.asarray(values, float)
    draws = np.random.default_rng(seed).choice(sample, (BOOTSTRAPS, len(sample))).mean(1)
    tail = round(50 * (1 - confidence), 6)
    return tuple(float(v) for v in np.percentile(draws, (tail, 100 - tail)))
