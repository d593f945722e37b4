"""The first sentences about a version."""

import pytest

from components.artifacts.headline import against_rule, in_words, not_better, sentence

MODEL = {"test_lesion_dice_mean": 0.7, "test_lesion_dice_ci_low": 0.6, "test_lesion_dice_ci_high": 0.8,
         "test_dice_mean": 0.41, "test_patients": 12, "test_patients_lesion_free": 2}  # fmt: skip
WORSE = MODEL | {"test_rule_dice_mean": 0.47, "test_better_than_rule": 0.0}
BETTER = MODEL | {"test_rule_dice_mean": 0.37, "test_better_than_rule": 1.0}
VERDICT = "Not better than a threshold rule without a network: Dice 0.410 against 0.470."


def test_a_missing_interval_is_noted():
    numbers = {"dice_mean": 0.7, "dice_ci_low": 0.6, "dice_ci_high": 0.81, "ml_mean": 2.345}
    assert in_words(numbers, "dice") == "0.700 (95 % interval 0.600 to 0.810)"
    assert in_words(numbers, "ml", "{:.1f} mL") == "2.3 mL (no interval: fewer than 5 patients)"


def test_a_model_that_is_not_better_than_the_rule_begins_with_that():
    dice = "Dice 0.700 (95 % interval 0.600 to 0.800) on the 10 held-out patients with a lesion."
    assert sentence(WORSE, synthetic=False) == f"{VERDICT} {dice} Research use only."
    better = "Better than a threshold rule without a network: Dice 0.410 against 0.370."
    assert sentence(BETTER, synthetic=False) == f"{dice} {better} Research use only."


def test_a_rule_that_was_not_measured_is_not_mentioned():
    assert (against_rule(MODEL), not_better(MODEL), not_better(BETTER)) == ("", "", "")
    assert against_rule(WORSE) == not_better(WORSE) == VERDICT
    assert "rule" not in sentence(MODEL, synthetic=False)


@pytest.mark.parametrize("dice", ["test_dice", "test_lesion_dice"])
def test_synthetic_patients_are_named(dice):
    numbers = {f"{dice}_mean": 0.5, "test_patients": 3}
    assert "3 synthetic demo patients" in sentence(numbers, synthetic=True)
    assert "it says nothing about real ones" in sentence(numbers, synthetic=True)
    assert "synthetic" not in sentence(numbers, synthetic=False)


def test_the_numbers_of_a_cross_validation_are_called_out_of_fold_and_the_ensemble_untested():
    said = sentence(MODEL | {"test_folds": 5.0}, synthetic=False)
    assert "These numbers are out-of-fold: of 5 networks, each patient was predicted by the one that had not" in said
    assert "The model is the mean of these networks, which was never tested itself. Research use only." in said
    assert "out-of-fold" not in sentence(MODEL, synthetic=False)
