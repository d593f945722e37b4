"""The bound beyond which one more value is unusual, learnt from earlier values."""

from collections.abc import Sequence

import numpy as np
from scipy import special


def prediction_bound(values: Sequence[float], exceeded: float, lower: bool = False) -> float | None:
    """Return the bound that one more value exceeds with the probability `exceeded`; None for fewer than two values.

    Student's prediction bound, mean + t * s * sqrt(1 + 1/n) (Geisser 1993, for normal values); the lower bound has a
    minus. The largest of n values is not a bound: one in n + 1 exceeds it, far too often with few patients.
    """
    n = len(values)
    if n < 2:
        return None
    off = special.stdtrit(n - 1, 1 - exceeded) * np.std(values, ddof=1) * np.sqrt(1 + 1 / n)
    return float(np.mean(values) + (-off if lower else off))
