"""The policy on numbers made by hand: better, worse, equal, too few; and invalid policies."""

import re

import numpy as np
import pytest
import yaml

from components.artifacts.evaluation import Comparison
from components.core.errors import StepError
from components.register.policy import Floors, Policy, judge_comparison, judge_floors, load
from tests.evidence.policy import LINES, WORSE, judged, passes, rate

EQUAL = {"dice": 0.0, "lesion_f1": 0.0, "relative_volume_difference": 0.0}
FLOORS = {"minimum_patients": 10, "better_than_rule": True, "false_volume_ml": 1}
SUMMARY = {"test_patients": 12, "test_dice_mean": 0.6, "test_rule_dice_mean": 0.37, "test_better_than_rule": 1.0,
           "test_false_positive_ml_lesion_free_mean": 0.2}  # fmt: skip
SPREAD = (-0.002, -0.001, 0.0, 0.001, 0.002)


def comparison(patients: int = 20, reason: str = "", **differences: float) -> Comparison:
    """Challenger less champion, by metric; around each number the patients differ a little."""
    pairs = {
        metric: {f"P{i}": [0.6 + difference + SPREAD[i % 5], 0.6] for i in range(patients)}
        for metric, difference in (EQUAL | differences).items()
    }
    return Comparison(champion="3", model="m", reason=reason, pairs=pairs)


def policy(**metrics: tuple[str, float]) -> Policy:
    tests = {name: {"test": test, "margin": margin} for name, (test, margin) in metrics.items()}
    return Policy.model_validate({"floors": FLOORS, "minimum_patients": 10, "confidence": 0.95, "metrics": tests})


def test_a_better_challenger_passes_the_policy_and_every_number_is_given():
    found = judge_comparison(load(), comparison(dice=0.03, lesion_f1=0.01, relative_volume_difference=-0.05))
    assert found.passed
    pattern = r"Dice, all patients \+0\.030 \(95 % 0\.029 to 0\.031\), better; lesion F1, touched \+0\.010 "
    assert re.match(pattern, found.explanation)
    assert "relative volume difference -0.050 (95 % -0.051 to -0.049), not shown to be worse" in found.explanation
    assert found.numbers["dice"]["patients"] == 20


def test_a_worse_challenger_is_refused_with_the_deciding_number():
    found = judge_comparison(load(), comparison(dice=-0.03))
    assert not found.passed
    pattern = r"Dice, all patients -0\.030 \(95 % -0\.031 to -0\.029\), not shown to be better"
    assert re.fullmatch(pattern, found.explanation)
    assert {metric for metric, n in found.numbers.items() if n["passed"]} == set(EQUAL) - {"dice"}


def test_an_equal_challenger_is_refused_where_superiority_is_asked_and_passes_the_other_tests():
    for equal in (
        comparison(),
        comparison().model_copy(update={"pairs": {"dice": {f"P{i}": (0.6, 0.6) for i in range(20)}}}),
    ):
        assert not judge_comparison(policy(dice=("superiority", 0)), equal).passed
        assert judge_comparison(policy(dice=("non-inferiority", 0.01)), equal).passed
        assert judge_comparison(policy(dice=("not-worse", 0)), equal).passed


def test_a_gain_in_dice_does_not_pay_for_lost_lesions_or_wrong_volumes():
    for loss in ({"lesion_f1": -0.06}, {"relative_volume_difference": 0.05}):
        found = judge_comparison(load(), comparison(dice=0.1, **loss))
        assert not found.passed
        assert "Dice" not in found.explanation
    assert found.explanation == "relative volume difference +0.050 (95 % 0.049 to 0.051), shown to be worse"


@pytest.mark.parametrize(
    ("metric", "test", "margin", "difference", "passes"),
    [
        ("dice", "superiority", 0.02, 0.019, False),
        ("dice", "superiority", 0.02, 0.021, True),
        ("dice", "non-inferiority", 0.02, -0.019, True),
        ("dice", "non-inferiority", 0.02, -0.021, False),
        ("absolute_volume_difference_ml", "superiority", 0, -0.01, True),
        ("absolute_volume_difference_ml", "superiority", 0, 0.01, False),
        ("absolute_volume_difference_ml", "non-inferiority", 0.5, 0.49, True),
        ("absolute_volume_difference_ml", "non-inferiority", 0.5, 0.51, False),
        ("relative_volume_difference", "not-worse", 0, 0.0005, True),
        ("relative_volume_difference", "not-worse", 0, 0.01, False),
        ("relative_volume_difference", "not-worse", 0.02, 0.02, True),
        ("dice", "not-worse", 0, -0.0005, True),
        ("dice", "not-worse", 0, -0.01, False),
    ],
)
def test_less_is_better_of_a_volume_difference_and_more_of_dice(metric, test, margin, difference, passes):
    assert judge_comparison(policy(**{metric: (test, margin)}), comparison(**{metric: difference})).passed is passes


def test_the_whole_interval_decides_and_not_the_mean():
    pairs = {"dice": {f"P{i}": (0.6 + (0.3 if i % 2 else -0.26), 0.6) for i in range(20)}}
    wide = Comparison(champion="3", model="m", reason="", pairs=pairs)
    found = judge_comparison(policy(dice=("superiority", 0)), wide)
    assert found.numbers["dice"]["mean"] == pytest.approx(0.02)
    assert not found.passed
    assert not judge_comparison(policy(dice=("non-inferiority", 0.05)), wide).passed


def test_a_higher_confidence_asks_for_more():
    pairs = {"dice": {f"P{i}": [0.6 + 0.01 + 20 * SPREAD[i % 5], 0.6] for i in range(20)}}
    of = Comparison(champion="3", model="m", reason="", pairs=pairs)
    low = [
        judge_comparison(policy(dice=("superiority", 0)).model_copy(update={"confidence": c}), of).numbers["dice"][
            "ci_low"
        ]
        for c in (0.8, 0.95, 0.99)
    ]
    assert low == sorted(low, reverse=True) and len(set(low)) == 3


VOLUMES = LINES["relative, not worse (the policy's)"]


def test_the_simulated_lines_are_those_of_the_policy():
    metrics = load().metrics
    metric, test, margin = VOLUMES
    assert (metrics[metric].test, metrics[metric].margin) == (test, margin)
    assert (metrics["dice"].test, metrics["dice"].margin) == ("superiority", 0)


@pytest.mark.parametrize(("patients", "repeats"), [(10, 400), (20, 200), (50, 100)])
def test_two_equal_models_pass_the_volume_line_in_at_least_95_of_100_simulations(patients, repeats):
    assert rate(passes, VOLUMES, patients, 1.0, repeats=repeats) >= 0.95


def test_many_patients_hold_back_most_models_whose_volumes_are_off_half_as_much_again():
    assert rate(passes, VOLUMES, 50, WORSE, repeats=60) < 0.5


def called_better(rng, missed: float) -> bool:
    """Whether one of two equal models is called better: 10 patients, Beta(5, 2) with a share at 0."""
    patients = rng.beta(5, 2, 10)
    pair = [np.where(rng.random(10) < missed, 0, (patients + rng.beta(5, 2, 10)) / 2) for _ in range(2)]
    return judged("dice", "superiority", 0, *pair)


@pytest.mark.parametrize("missed", [0.0, 0.05, 0.1])
def test_of_two_equal_models_one_is_called_better_in_at_most_3_of_100_simulations_of_10_patients(missed):
    assert rate(called_better, missed, repeats=1500) <= 0.03


def test_too_few_patients_decide_nothing_even_with_good_numbers():
    found = judge_comparison(load(), comparison(patients=9, dice=0.2))
    assert not found.passed
    assert found.explanation == "9 test patients are too few, the policy requires 10"
    assert found.numbers["dice"]["mean"] == pytest.approx(0.2, abs=0.001)


def test_a_metric_that_too_few_patients_have_is_named():
    few = comparison(dice=0.1)
    few.pairs["relative_volume_difference"] = {"P1": (1.0, 1.0)}
    assert judge_comparison(load(), few).explanation == "relative volume difference is known for 1 test patient only"
    del few.pairs["relative_volume_difference"]
    assert judge_comparison(load(), few).explanation == "relative volume difference is known for 0 test patients only"


def test_an_unfair_comparison_is_refused_even_with_good_numbers():
    found = judge_comparison(
        load(), comparison(dice=0.2, reason="version 3 was trained or tuned on 2 of these 20 test patients")
    )
    assert (found.passed, found.numbers) == (False, {})
    assert "trained or tuned on 2 of these 20" in found.explanation


def test_a_version_above_every_floor_passes_with_each_number():
    found = judge_floors(load().floors, SUMMARY)
    assert found.passed
    assert found.explanation == (
        "12 test patients of at least 10; Dice 0.600, better than the rule without a network (0.370); "
        "0.20 mL predicted on a lesion-free scan on average, at most 1 mL"
    )


@pytest.mark.parametrize(
    ("short", "floor", "text"),
    [
        ({"test_patients": 9}, "minimum_patients", "9 test patients of at least 10"),
        ({"test_patients": 1}, "minimum_patients", "1 test patient of at least 10"),
        ({"test_dice_mean": 0.24, "test_better_than_rule": 0.0}, "better_than_rule",
         "Dice 0.240, not better than the rule without a network (0.370)"),
        ({"test_rule_dice_mean": None, "test_better_than_rule": None}, "better_than_rule",
         "the rule without a network was not evaluated: run again"),
        ({"test_false_positive_ml_lesion_free_mean": 1.01}, "false_volume_ml",
         "1.01 mL predicted on a lesion-free scan on average, more than 1 mL"),
    ],
)  # fmt: skip
def test_a_version_below_one_floor_fails_by_that_one_alone(short, floor, text):
    summary = {name: value for name, value in (SUMMARY | short).items() if value is not None}
    found = judge_floors(load().floors, summary)
    assert (found.passed, found.explanation) == (False, text)
    assert [name for name, numbers in found.numbers.items() if not numbers["passed"]] == [floor]


def test_an_untested_false_volume_is_reported_and_refuses_nothing():
    summary = {k: v for k, v in SUMMARY.items() if k != "test_false_positive_ml_lesion_free_mean"}
    found = judge_floors(load().floors, summary)
    assert found.passed and "false volume not tested, without a lesion-free test scan" in found.explanation


def test_the_rule_is_no_floor_where_the_policy_does_not_ask_for_it():
    floors = Floors(minimum_patients=1, better_than_rule=False, false_volume_ml=1)
    assert judge_floors(floors, {"test_patients": 1, "test_dice_mean": 0.1}).passed


GOOD = {
    "floors": FLOORS,
    "minimum_patients": 10,
    "confidence": 0.95,
    "metrics": {"dice": {"test": "superiority", "margin": 0}},
}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"metrics": {"dise": {"test": "superiority", "margin": 0}}}, "metrics.dise is no metric. Metrics: dice, iou,"),
        ({"metrics": {"dice": {"test": "superior", "margin": 0}}}, "metrics.dice.test: .*'superior'"),
        ({"metrics": {"dice": {"test": "superiority", "margin": -0.1}}}, "metrics.dice.margin: .*not -0.1"),
        ({"metrics": {"dice": {"test": "superiority", "margin": "0"}}}, "metrics.dice.margin: .*not '0'"),
        ({"metrics": {"dice": {"test": "superiority"}}}, "metrics.dice.margin: Field required"),
        ({"metrics": {"dice": {"test": "non-inferiority", "margin": 0}}}, "metrics.dice: .*needs a margin above 0"),
        ({"metrics": {}}, "metrics: "),
        ({"confidence": 95}, "confidence: .*not 95"),
        ({"minimum_patients": 1}, "minimum_patients: .*not 1"),
        ({"minimum_patients": True}, "minimum_patients: .*not True"),
        ({"margin": 0.1}, "margin is unknown"),
        ({"floors": FLOORS | {"better_than_rule": 1}}, "floors.better_than_rule: .*not 1"),
        ({"floors": FLOORS | {"false_volume_ml": -1}}, "floors.false_volume_ml: .*not -1"),
        ({"floors": {}}, "floors.minimum_patients: Field required"),
    ],
)
def test_an_invalid_policy_is_refused_with_the_field(tmp_path, change, text):
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(StepError, match=text) as error:
        load(path)
    assert str(error.value).startswith(str(path)) and "Correct the policy" in str(error.value)


@pytest.mark.parametrize("text", ["metrics: [", "", "- dice"])
def test_a_file_without_a_policy_is_refused(tmp_path, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(StepError, match=r"policy\.yaml: "):
        load(path)


def test_a_missing_policy_is_named(tmp_path):
    with pytest.raises(StepError, match=r"policy\.yaml: .*No such file"):
        load(tmp_path / "policy.yaml")
