"""The promotion policy, `policy.yaml`, and what it says to a comparison with the champion."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from components.core.intervals import paired_interval
from components.register.strict import Strict, read

POLICY = Path(__file__).with_name("policy.yaml")
MEASURES = {
    "dice": ("Dice", "", 1),
    "iou": ("IoU", "", 1),
    "lesion_f1": ("lesion-wise F1", "", 1),
    "absolute_volume_difference_ml": ("volume difference", " mL", -1),
    "lesion_count_difference": ("lesion count difference", "", -1),
}
"""Metric to its name, its unit, and whether more (1) or less (-1) of it is better."""
Metric = Literal["dice", "iou", "lesion_f1", "absolute_volume_difference_ml", "lesion_count_difference"]


class Test(Strict):
    """How a metric's interval is judged; the margin is in the metric's own unit."""

    test: Literal["superiority", "non-inferiority"]
    margin: float = Field(ge=0)

    @model_validator(mode="after")
    def _allows_equal(self) -> "Test":
        if self.test == "non-inferiority" and self.margin == 0:
            raise ValueError("non-inferiority needs a margin above 0: how much worse is still as good?")
        return self


class Policy(Strict):
    """What a challenger must show: every test, on so many patients, at this confidence."""

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
        superior = test.test == "superiority"
        passed = (low if better > 0 else -high) > (test.margin if superior else -test.margin)
        numbers[metric] = {
            "patients": len(differences), "mean": mean, "ci_low": low, "ci_high": high, "passed": passed,
        }  # fmt: skip
        said = f"{label} {mean:+.3f}{unit} ({100 * policy.confidence:g} % {low:.3f} to {high:.3f})"
        if superior:
            better_by = f"better by more than {test.margin:g}{unit}" if test.margin else "better"
            said += f", {'' if passed else 'not shown to be '}{better_by}"
        else:
            said += f", margin {test.margin:g}{unit}{'' if passed else ' not'} met"
        (met if passed else failed).append(said)
    return Verdict(not failed, "; ".join(failed or met), numbers)


def _patients(count: int) -> str:
    return f"{count} test patient{'s' * (count != 1)}"
