"""What a number of patients can show: how sure a mean is, and which difference of two models can be detected.

Both hold for values of normal distribution, so they plan a study and judge no result: the intervals of a result are in
`intervals`. In simulations with 10 to 100 Dice values (Beta distribution, mean 0.65, standard deviation 0.25) the
interval of a result is 9 to 14 % wider than the one that is expected here.
"""

import math

from scipy import optimize, special

from components.core.intervals import FEWEST

FEWEST_PAIRS = 6
"""With fewer pairs the sign-flip test of `paired_interval` rejects nothing at 5 %."""
DICE_SPREAD = 0.25
"""Assumed standard deviation of Dice between patients, where no result is known yet."""
CORRELATION = 0.8
"""Assumed correlation of the Dice values of two models on the same patients."""
LARGEST_SHIFT = 10.0
"""Mean difference in standard errors that every test finds."""


def half_width(patients: int, spread: float, confidence: float = 0.95) -> float | None:
    """Return half the expected width of the interval of a mean over patients; None for fewer than 5.

    Student (1908): t(1 - (1 - confidence) / 2, n - 1) * spread / sqrt(n). `spread` is the standard deviation between
    patients.
    """
    if patients < FEWEST:
        return None
    return float(special.stdtrit(patients - 1, (1 + confidence) / 2)) * spread / math.sqrt(patients)


def detectable_difference(
    patients: int, spread: float, correlation: float = CORRELATION, power: float = 0.8, significance: float = 0.05
) -> float | None:
    """Return the smallest mean difference that a paired, two-sided test finds with this power; None below 6 patients.

    The power of the paired t test by the noncentral t distribution (Cohen 1988, Statistical Power Analysis, chapter 2).
    The differences have the standard deviation spread * sqrt(2 (1 - correlation)) if both models have this spread.
    """
    if patients < FEWEST_PAIRS:
        return None
    freedom = patients - 1
    critical = float(special.stdtrit(freedom, 1 - significance / 2))

    def lacking(shift: float) -> float:
        """Return the power that is missing; a significant result in the wrong direction is too rare to count."""
        return power - 1 + float(special.nctdtr(freedom, shift, critical))

    shift = float(optimize.brentq(lacking, 0, LARGEST_SHIFT))
    return shift / math.sqrt(patients) * spread * math.sqrt(2 * (1 - correlation))
