"""How far one more value may lie from those seen before it is unusual."""

from collections.abc import Sequence

import numpy as np
from scipy import special


def prediction_bound(values: Sequence[float], exceeded: float, lower: bool = False) -> float | None:
    """Return what one more value of their kind is above with the probability `exceeded`; None of fewer than two.

    Student's prediction bound, mean + t * s * sqrt(1 + 1/n) (Geisser 1993, of normal values), the lower one with a
    minus. The largest of n values would be exceeded by one in n + 1: with few patients far too often.
    """
    n = len(values)
    if n < 2:
        return None
    off = special.stdtrit(n - 1, 1 - exceeded) * np.std(values, ddof=1) * np.sqrt(1 + 1 / n)
    return float(np.mean(values) + (-off if lower else off))
