"""The promotion policy, `policy.yaml`, and what it says to a version's own numbers and to its comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from components.core.intervals import paired_interval
from components.core.yaml_models import Strict, read

POLICY = Path(__file__).with_name("policy.yaml")
MEASURES = {
    "dice": ("Dice", "", 1),
    "iou": ("IoU", "", 1),
    "lesion_f1": ("lesion-wise F1", "", 1),
    "absolute_volume_difference_ml": ("volume difference", " mL", -1),
    "relative_volume_difference": ("relative volume difference", "", -1),
    "lesion_count_difference": ("lesion count difference", "", -1),
}
"""Metric to its name, its unit, and whether more (1) or less (-1) of it is better."""
Metric = Literal[
    "dice", "iou", "lesion_f1", "absolute_volume_difference_ml", "relative_volume_difference", "lesion_count_difference"
]


class Test(Strict):
    """How a metric's interval is judged; the margin is in the metric's own unit."""

    test: Literal["superiority", "non-inferiority", "not-worse"]
    margin: float = Field(ge=0)

    @model_validator(mode="after")
    def _allows_equal(self) -> "Test":
        if self.test == "non-inferiority" and self.margin == 0:
            raise ValueError("non-inferiority needs a margin above 0: how much worse is still as good?")
        return self


class Floors(Strict):
    """What a version must reach on its own test patients, whoever is champion."""

    minimum_patients: int = Field(ge=1)
    """Test patients."""
    better_than_rule: bool
    """Its mean Dice is above that of the rule without a network on the same patients."""
    false_volume_ml: float = Field(ge=0)
    """Most mL predicted on a test scan without a lesion, on average."""


class Policy(Strict):
    """What a challenger must show: the floors, and every test on so many patients, at this confidence."""

    floors: Floors
    minimum_patients: int = Field(ge=2)
    confidence: float = Field(ge=0.8, lt=1)
    metrics: dict[Metric, Test] = Field(min_length=1)


@dataclass(frozen=True)
class Verdict:
    """Whether the policy lets a challenger pass, why in words, and each metric's numbers."""

    passed: bool
    words: str
    numbers: dict[str, dict]


def load(path: Path = POLICY) -> Policy:
    """The policy of a file.

    Raises:
        StepError: it is not there, not YAML, or says something else than a policy.
    """
    return read(path, Policy, f"no metric. Metrics: {', '.join(MEASURES)}")


def judge_floors(floors: Floors, summary: dict[str, float]) -> Verdict:
    """Judge a version by its own numbers, the `summary` of `test_metrics.json`.

    A false volume that no test scan without a lesion can show is said to be not tested, and does not fail.
    """
    numbers, met, failed = {}, [], []

    def judge(name: str, passed: bool, said: str, **found: float | None) -> None:
        numbers[name] = {**found, "passed": passed}
        (met if passed else failed).append(said)

    count, least = int(summary["test_patients"]), floors.minimum_patients
    judge("minimum_patients", count >= least, f"{_patients(count)} of at least {least}", patients=count)
    if floors.better_than_rule:
        dice, rule = summary["test_dice_mean"], summary.get("test_rule_dice_mean")
        better = bool(summary.get("test_better_than_rule"))
        said = "the rule without a network was not evaluated beside it: run again"
        if rule is not None:
            said = f"Dice {dice:.3f}, {'' if better else 'not '}better than the rule without a network ({rule:.3f})"
        judge("better_than_rule", better, said, dice=dice, rule=rule)
    false, most = summary.get("test_false_positive_ml_lesion_free_mean"), floors.false_volume_ml
    said = "false volume not tested, without a lesion-free test scan with a voxel size"
    if false is not None:
        limit = "at most" if false <= most else "more than"
        said = f"{false:.2f} mL predicted on a lesion-free scan on average, {limit} {most:g} mL"
    judge("false_volume_ml", false is None or false <= most, said, mean=false)
    return Verdict(not failed, "; ".join(failed or met), numbers)


def verdict(policy: Policy, comparison: dict) -> Verdict:
    """Judge `comparison.json` (from evaluate)."""
    if comparison["reason"]:
        return Verdict(False, comparison["reason"], comparison.get("differences", {}))
    numbers, met, failed = {}, [], []
    count = max(map(len, comparison["pairs"].values()))
    if count < policy.minimum_patients:
        failed.append(f"{_patients(count)} can decide nothing, the policy asks for {policy.minimum_patients}")
    for metric, test in policy.metrics.items():
        label, unit, better = MEASURES[metric]
        differences = [new - old for new, old in comparison["pairs"].get(metric, {}).values()]
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
        said = f"{label} {mean:+.3f}{unit} ({100 * policy.confidence:g} % {low:.3f} to {high:.3f})"
        by = f" by more than {test.margin:g}{unit}" if test.margin else ""
        if test.test == "superiority":
            said += f", {'' if passed else 'not shown to be '}better{by}"
        elif test.test == "not-worse":
            said += f", {'not ' if passed else ''}shown to be worse{by}"
        else:
            said += f", margin {test.margin:g}{unit}{'' if passed else ' not'} met"
        (met if passed else failed).append(said)
    return Verdict(not failed, "; ".join(failed or met), numbers)


def _passes(test: Test, low: float, high: float) -> bool:
    """Judge the interval of a difference of which more is better; policy.yaml says what the tests mean."""
    if test.test == "superiority":
        return low > test.margin
    return low > -test.margin if test.test == "non-inferiority" else high >= -test.margin


def _patients(count: int) -> str:
    return f"{count} test patient{'s' * (count != 1)}"
