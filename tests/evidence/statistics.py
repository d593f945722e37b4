"""How often intervals hold the true mean, and how often an equal model is promoted: by simulation, seeds fixed."""

from collections.abc import Callable

import numpy as np

from components.core.intervals import bounded_mean_interval, mean_interval, paired_interval
from tests.evidence import intervals
from tests.evidence.page import table

REPEATS = 2000
COUNTS = (5, 10, 20)
MISSED = {"Beta(5, 2)": 0.0, "and one patient in 20 missed": 1 / 20, "and one patient in 10 missed": 1 / 10}
"""Dice of a patient: the share of patients at 0."""
BETA_MEAN = 5 / 7
DICE_METHODS = {
    "percentile bootstrap (before)": intervals.percentile,
    "Student's t": intervals.student,
    "studentised bootstrap": intervals.studentised,
    "**Gaffke (now)**": bounded_mean_interval,
}
VOLUME_METHODS = {
    "percentile bootstrap (before)": intervals.percentile,
    "Student's t": intervals.student,
    "BCa bootstrap": intervals.bca,
    "Hall's scale": intervals.hall,
    "studentised bootstrap": intervals.studentised,
    "**wider of t and studentised (now)**": mean_interval,
}
Samples = tuple[np.ndarray, float]
"""Samples (R, n), and the true mean of what they are drawn from."""


def section() -> str:
    return f"""
{REPEATS} samples each. The target is 0.95; the standard error of such a share is {np.sqrt(0.95 * 0.05 / REPEATS):.3f}.

### Intervals of Dice

Share of intervals that hold the true mean, and their mean width, where Dice is drawn from Beta(5, 2) with a share of
patients at 0, whose lesion was missed.

{_coverage(DICE_METHODS, _dices, lambda widths, mean: widths.mean())}

### Intervals of volumes and counts

The same for what has no upper end; the width is the median one, as a share of the true mean. Relative error: a lesion
of lognormal volume (median 8 mL, standard deviation of the logarithm 1.2), predicted with a lognormal factor (0.9,
0.4). None of these methods holds where a rare huge error decides the mean: so few patients have not shown it.

{_coverage(VOLUME_METHODS, _volumes, lambda widths, mean: np.median(widths) / mean)}

### Promotion

How often a new model is called better (the lower end of the 95 % interval of the paired difference is above 0) though
the mean difference is 0. At most 0.025 is meant. In the first three rows the models are exchangeable: each has noise of
its own (0.08) on the patient's Dice and misses its own share. In the last one it is not: the new model is better by
{GAIN:.3f} on all patients but loses one in ten, so that the means are equal. Among few patients there may be no lost
one to see, and then no test can tell.

{_promotions()}

How often a better model is called better, by the size of its mean gain in Dice (standard deviation of the difference
0.1):

{_power()}
"""


def _coverage(methods: dict[str, Callable], distributions: Callable, width: Callable) -> str:
    """`distributions(rng, n)` is name to samples, `width(widths, true mean)` what is shown of the intervals' widths."""
    rows = []
    for count in COUNTS:
        for name, (samples, mean) in distributions(np.random.default_rng(count), count).items():
            cells = []
            for method in methods.values():
                low, high = np.array([method(sample) for sample in samples]).T
                held = np.mean((low <= mean + 1e-12) & (mean <= high + 1e-12))
                cells.append(f"{held:.3f} ({width(high - low, mean):.2f})")
            rows.append([name, str(count), *cells])
    return table(["drawn from", "patients", *methods], rows)


def _dices(rng: np.random.Generator, count: int) -> dict[str, Samples]:
    shape = (REPEATS, count)
    return {
        name: (rng.beta(5, 2, shape) * (rng.random(shape) >= missed), BETA_MEAN * (1 - missed))
        for name, missed in MISSED.items()
    }


def _volumes(rng: np.random.Generator, count: int) -> dict[str, Samples]:
    shape, many = (REPEATS, count), np.random.default_rng(0)
    return {
        "lognormal (1.0)": (rng.lognormal(0, 1, shape), np.exp(0.5)),
        "lognormal (1.5)": (rng.lognormal(0, 1.5, shape), np.exp(1.125)),
        "relative error": (_relative(rng, shape), float(_relative(many, 5_000_000).mean())),
        "6 in 10 at 0, else lognormal (1.0)": (
            10 * rng.lognormal(0, 1, shape) * (rng.random(shape) < 0.4), 4 * np.exp(0.5),
        ),
        "half normal": (2 * abs(rng.normal(size=shape)), 2 * np.sqrt(2 / np.pi)),
        "counts, Poisson (1.5)": (rng.poisson(1.5, shape).astype(float), 1.5),
    }  # fmt: skip


def _relative(rng: np.random.Generator, shape) -> np.ndarray:
    volume = rng.lognormal(np.log(8), 1.2, shape)
    return abs(volume * (rng.lognormal(np.log(0.9), 0.4, shape) - 1))


LOST = 0.1
GAIN = LOST * BETA_MEAN / (1 - LOST)
"""Makes up, in the mean, for what the lost patients cost."""


def _promotions() -> str:
    methods = {"percentile bootstrap (before)": intervals.percentile, "**sign flips (now)**": paired_interval}
    counts = (10, 20, 50)
    rows = []
    for name, missed in {**MISSED, "one patient in 10 lost": None}.items():
        cells = []
        for count in counts:
            rng, shape = np.random.default_rng(count), (REPEATS, count)
            differences = _lost(rng, shape) if missed is None else _exchangeable(rng, shape, missed)
            cells += [f"{_promoted(method, differences):.3f}" for method in methods.values()]
        rows.append([name, *cells])
    header = [f"{method}, {count} patients" for count in counts for method in methods]
    return table(["Dice of a patient", *header], rows)


def _exchangeable(rng: np.random.Generator, shape: tuple[int, int], missed: float) -> np.ndarray:
    patient = rng.beta(5, 2, (*shape, 1))
    pairs = np.clip(patient + rng.normal(0, 0.08, (*shape, 2)), 0, 1) * (rng.random((*shape, 2)) >= missed)
    return pairs[..., 0] - pairs[..., 1]


def _lost(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    old = rng.beta(5, 2, shape)
    return np.where(rng.random(shape) < LOST, -old, GAIN + rng.normal(0, 0.08, shape))


def _power() -> str:
    gains, rows = (0.02, 0.05, 0.1), []
    for count in (10, 20, 50):
        noise = np.random.default_rng(count).normal(0, 0.1, (REPEATS, count))
        rows.append([str(count), *(f"{_promoted(paired_interval, noise + gain):.2f}" for gain in gains)])
    return table(["patients", *(f"gain {gain}" for gain in gains)], rows)


def _promoted(method: Callable, differences: np.ndarray) -> float:
    return float(np.mean([method(sample)[0] > 0 for sample in differences]))
