"""The promotion policy in `policy.yaml`: judge a version's own numbers and its comparison with the champion."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from components.artifacts.evaluation import Comparison
from components.artifacts.metric_labels import METRIC_LABELS
from components.core.intervals import paired_interval
from components.core.yaml_models import Strict, read

POLICY = Path(__file__).with_name("policy.yaml")
Metric = Literal[
    "dice", "iou", "lesion_f1", "absolute_volume_difference_ml", "relative_volume_difference", "lesion_count_difference"
]


class Test(Strict):
    """The test of a metric's interval; the margin is in the metric's unit."""

    test: Literal["superiority", "non-inferiority", "not-worse"]
    margin: float = Field(ge=0)

    @model_validator(mode="after")
    def _allows_equal(self) -> "Test":
        if self.test == "non-inferiority" and self.margin == 0:
            raise ValueError("non-inferiority needs a margin above 0: how much worse is still as good?")
        return self


class Floors(Strict):
    """Requirements on a version's own numbers, with or without a champion."""

    minimum_patients: int = Field(ge=1)
    """Least number of test patients."""
    better_than_rule: bool
    """Whether its mean Dice must be above that of the rule without a network on the same patients."""
    false_volume_ml: float = Field(ge=0)
    """Largest mean volume predicted on test scans without a lesion, mL."""


class Policy(Strict):
    """Requirements for a promotion: the floors, and all tests with this number of patients and this confidence."""

    floors: Floors
    minimum_patients: int = Field(ge=2)
    confidence: float = Field(ge=0.8, lt=1)
    metrics: dict[Metric, Test] = Field(min_length=1)


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger passes, the explanation as a sentence, and each metric's numbers."""

    passed: bool
    explanation: str
    numbers: Mapping[str, dict[str, Any]]


def load(path: Path = POLICY) -> Policy:
    """Read the policy from a file.

    Raises:
        StepError: the file is missing, is not YAML, or is not a valid policy.
    """
    return read(path, Policy, f"no metric. Metrics: {', '.join(get_args(Metric))}")


def judge_floors(floors: Floors, summary: dict[str, float]) -> Verdict:
    """Judge a version by its own numbers, the `summary` of `TestMetrics`.

    Without a lesion-free test scan the false volume is reported as not tested, and does not fail.
    """
    numbers: dict[str, dict[str, Any]] = {}
    met: list[str] = []
    failed: list[str] = []

    def judge(name: str, passed: bool, reason: str, **values: float | None) -> None:
        numbers[name] = {**values, "passed": passed}
        (met if passed else failed).append(reason)

    count, least = int(summary["test_patients"]), floors.minimum_patients
    judge("minimum_patients", count >= least, f"{_patients(count)} of at least {least}", patients=count)
    if floors.better_than_rule:
        dice, rule = summary["test_dice_mean"], summary.get("test_rule_dice_mean")
        better = bool(summary.get("test_better_than_rule"))
        reason = "the rule without a network was not evaluated: run again"
        if rule is not None:
            reason = f"Dice {dice:.3f}, {'' if better else 'not '}better than the rule without a network ({rule:.3f})"
        judge("better_than_rule", better, reason, dice=dice, rule=rule)
    false, most = summary.get("test_false_positive_ml_lesion_free_mean"), floors.false_volume_ml
    reason = "false volume not tested, without a lesion-free test scan with a voxel size"
    if false is not None:
        limit = "at most" if false <= most else "more than"
        reason = f"{false:.2f} mL predicted on a lesion-free scan on average, {limit} {most:g} mL"
    judge("false_volume_ml", false is None or false <= most, reason, mean=false)
    return Verdict(not failed, "; ".join(failed or met), numbers)


def judge_comparison(policy: Policy, comparison: Comparison) -> Verdict:
    """Judge the comparison of a challenger with the champion."""
    pairs = comparison.pairs or {}
    if comparison.reason or not pairs:
        measured = {metric: difference.model_dump() for metric, difference in comparison.differences.items()}
        return Verdict(False, comparison.reason or "there are no pairs to compare", measured)
    numbers: dict[str, dict[str, Any]] = {}
    met: list[str] = []
    failed: list[str] = []
    count = max(map(len, pairs.values()))
    if count < policy.minimum_patients:
        failed.append(
            f"{_patients(count)} {'is' if count == 1 else 'are'} too few, the policy requires {policy.minimum_patients}"
        )
    for metric, test in policy.metrics.items():
        label, _, unit, better = METRIC_LABELS[metric]
        unit = unit and f" {unit}"
        differences = [new - old for new, old in pairs.get(metric, {}).values()]
        if not differences or len(differences) < policy.minimum_patients <= count:
            failed.append(f"{label} is known for {_patients(len(differences))} only")
            numbers[metric] = {"patients": len(differences), "passed": False}
            continue
        mean = sum(differences) / len(differences)
        interval = paired_interval(differences, confidence=policy.confidence)
        if interval is None:
            failed.append(f"{label} {mean:+.3f}{unit} has no interval: {_patients(len(differences))} are too few")
            numbers[metric] = {"patients": len(differences), "mean": mean, "passed": False}
            continue
        low, high = interval
        passed = _passes(test, *((low, high) if better > 0 else (-high, -low)))
        numbers[metric] = {
            "patients": len(differences), "mean": mean, "ci_low": low, "ci_high": high, "passed": passed,
        }  # fmt: skip
        reason = f"{label} {mean:+.3f}{unit} ({100 * policy.confidence:g} % {low:.3f} to {high:.3f})"
        by = f" by more than {test.margin:g}{unit}" if test.margin else ""
        if test.test == "superiority":
            reason += f", {'' if passed else 'not shown to be '}better{by}"
        elif test.test == "not-worse":
            reason += f", {'not ' if passed else ''}shown to be worse{by}"
        else:
            reason += f", margin {test.margin:g}{unit}{'' if passed else ' not'} met"
        (met if passed else failed).append(reason)
    return Verdict(not failed, "; ".join(failed or met), numbers)


def _passes(test: Test, low: float, high: float) -> bool:
    """Apply a test to the interval of a difference whose larger values are better. See policy.yaml for the tests."""
    if test.test == "superiority":
        return low > test.margin
    return low > -test.margin if test.test == "non-inferiority" else high >= -test.margin


def _patients(count: int) -> str:
    return f"{count} test patient{'s' * (count != 1)}"
