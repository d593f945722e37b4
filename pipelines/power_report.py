"""Say what the patients of a data set can show: before a run (check-data) and after it (its summary)."""

import math

from components.register import policy
from pipelines.statistical_power import DICE_SPREAD, detectable_difference, half_width


def power_report(
    tested: int, patients: int, synthetic: bool, test_ratio: float | None = None, spread: float | None = None
) -> list[str]:
    """Return lines about what a test on these patients can show.

    Args:
        tested: Test patients of one split.
        patients: All labelled patients: FOLDS=5 tests each of them once.
        synthetic: Whether the scans are synthetic: the floors of the promotion policy are for patients.
        test_ratio: Share of the test patients, to say how many patients the promotion policy needs.
        spread: Standard deviation of Dice between patients, from a result; None assumes `DICE_SPREAD`.
    """
    source = "of this run" if spread is not None else "assumed"
    spread = DICE_SPREAD if spread is None else spread
    lines = [
        f"what these patients can show, with a standard deviation of Dice of {spread:.2f} ({source}):",
        f"  test of {tested}: {_precision(tested, spread)}",
    ]
    if patients > tested:
        lines.append(f"  FOLDS=5, test of all {patients}: {_precision(patients, spread)}")
    return lines if synthetic else [*lines, f"  promotion: {_promotion(tested, patients, test_ratio)}"]


def _precision(patients: int, spread: float) -> str:
    width, difference = half_width(patients, spread), detectable_difference(patients, spread)
    mean = "no interval" if width is None else f"mean Dice within ±{width:.2f} (95 %)"
    if difference is None:
        return f"{mean}; a comparison of two models can show nothing"
    return f"{mean}; a comparison finds a difference of {difference:.2f} (power 80 %)"


def _promotion(tested: int, patients: int, test_ratio: float | None) -> str:
    rules = policy.load()
    least = max(rules.floors.minimum_patients, rules.minimum_patients)
    if tested >= least:
        return f"{tested} test patients are enough for the policy, which asks for {least}"
    needed = f", about {math.ceil(least / test_ratio)} patients with this split" if test_ratio else ""
    folds = ""
    if patients > tested:
        folds = "; FOLDS=5 reaches it" if patients >= least else "; FOLDS=5 does not reach it either"
    return f"the policy asks for {least} test patients{needed}, so no version can pass{folds}"
