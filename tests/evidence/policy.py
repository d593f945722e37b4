"""What the promotion policy does to equal and to worse models, by simulation: section policy of `make evidence`."""

from collections.abc import Callable
from functools import cache
from typing import get_args

import numpy as np

from components.artifacts.evaluation import Comparison
from components.register.policy import Metric, Policy, judge_comparison, load
from tests.evidence.page import table

REPEATS = 1000
COUNTS = (10, 20, 50)
WORSE = 1.5
LINES = {
    "volume difference, margin 1 mL (before)": ("absolute_volume_difference_ml", "non-inferiority", 1),
    "volume difference, not worse": ("absolute_volume_difference_ml", "not-worse", 0),
    "cube root, as a ball's diameter, margin 10 mm": ("diameter_difference_mm", "non-inferiority", 10),
    "relative, margin 0.5": ("relative_volume_difference", "non-inferiority", 0.5),
    "relative, not worse (the policy's)": ("relative_volume_difference", "not-worse", 0),
}
"""The volume lines that are compared: metric, test, margin."""


def volumes(rng, patients: int, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true, champion's and challenger's mL of so many patients; the challenger errs `factor` times as much.

    Lesions are lognormal with a median of 8 mL, 0.3 to 200 mL; one patient in ten has none. Predictions are off by a
    lognormal factor (standard deviation 0.35 of its logarithm, correlation 0.6 between the models). A lesion of V mL is
    missed with probability 0.15 / sqrt(1 + V). Three in ten lesion-free patients get false lesion, 0.2 mL in the
    median. Misses and false lesions befall both models together in seven of ten cases.
    """

    def together(common: np.ndarray, draw: Callable) -> np.ndarray:
        return np.where(rng.random(patients) < 0.7, common, draw(patients))

    normal, uniform = rng.standard_normal, rng.random
    lesions = np.clip(8 * np.exp(1.6 * normal(patients)), 0.3, 200)
    free = uniform(patients) < 0.1
    shared_error, shared_miss, shared_false = normal(patients), uniform(patients), uniform(patients)
    predicted = []
    for times in (1.0, factor):
        error = np.sqrt(0.6) * shared_error + np.sqrt(0.4) * normal(patients)
        missed = together(shared_miss, uniform) < times * 0.15 / np.sqrt(1 + lesions)
        found = np.where(missed, 0, lesions * np.exp(times * 0.35 * error))
        false = np.where(together(shared_false, uniform) < times * 0.3, times * 0.2 * np.exp(error), 0)
        predicted.append(np.where(free, false, found))
    return np.where(free, 0, lesions), *predicted


def off(truth: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return metric to what it is for each patient; the first two are computed as the evaluation defines them."""
    diameters = [10 * np.cbrt(6 / np.pi * ml) for ml in (truth, predicted)]
    return {
        "absolute_volume_difference_ml": np.abs(predicted - truth),
        "relative_volume_difference": np.abs(predicted - truth) / np.maximum(truth, 1),
        "diameter_difference_mm": np.abs(diameters[1] - diameters[0]),
    }


def passes(rng, line: tuple[str, str, float], patients: int, factor: float) -> bool:
    """Judge one simulated challenger by a line."""
    metric, test, margin = line
    known = metric if metric in get_args(Metric) else "absolute_volume_difference_ml"  # less of it is better, too
    truth, champion, challenger = volumes(rng, patients, factor)
    return judged(known, test, margin, off(truth, challenger)[metric], off(truth, champion)[metric])


def judged(metric: str, test: str, margin: float, challenger: np.ndarray, champion: np.ndarray) -> bool:
    """Let a policy of one line judge two models on the same patients."""
    pairs = {str(i): pair for i, pair in enumerate(zip(challenger, champion, strict=True))}
    compared = Comparison(champion=None, model=None, reason="", pairs={metric: pairs})
    return judge_comparison(_policy_of(metric, test, margin), compared).passed


@cache
def _policy_of(metric: str, test: str, margin: float) -> Policy:
    return Policy.model_validate(load().model_dump() | {"metrics": {metric: {"test": test, "margin": margin}}})


def rate(judge: Callable[..., bool], *arguments, repeats: int) -> float:
    """Return the share of simulated comparisons that pass; of one seed."""
    rng = np.random.default_rng(0)
    return sum(judge(rng, *arguments) for _ in range(repeats)) / repeats


def section() -> str:
    rows = []
    for name, line in LINES.items():
        rates = [rate(passes, line, n, factor, repeats=REPEATS) for factor in (1.0, WORSE) for n in COUNTS]
        rows.append([name, *(f"{value:.2f}" for value in rates)])
    header = ["volume line", *(f"{who}, {n} patients" for who in ("equal", f"{WORSE:g} times") for n in COUNTS)]
    return f"""
How often a challenger passes the policy's volume line: one as good as the champion, and one whose volumes are off
{WORSE:g} times as much. {REPEATS} simulated comparisons each; the standard error of a share of 0.95 is
{np.sqrt(0.95 * 0.05 / REPEATS):.3f}. How they are drawn is said at `volumes` in tests/evidence/policy.py.

{table(header, rows)}

A fixed margin that equal models meet on 10 patients is so wide that a worse model meets it too, the more surely the
more patients there are. A line that fails where a loss is shown passes equal models on any number of patients, and
holds back the worse one the more surely the more there are. On 10 patients no line does both.
"""
