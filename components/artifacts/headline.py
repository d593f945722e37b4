"""Summarise an evaluation in sentences that are the same in the terminal, on pages and in the registry."""

from collections.abc import Mapping

from components.core.intervals import FEWEST

Numbers = Mapping[str, float]
LOOKED_AT = (
    "Every run measures its model on the same test patients, and every promotion decides by them. The more versions "
    "are tried, the more the best number owes to chance. Keep some patients apart whom no run has seen, and test on "
    "them once, at the end."
)
"""The limit of a test set that every run and every promotion uses."""


def in_words(numbers: Numbers, name: str, form: str = "{:.3f}") -> str:
    """Return the mean of a metric with its interval: "0.700 (95 % interval 0.600 to 0.800)"."""
    mean = form.format(numbers[f"{name}_mean"])
    if f"{name}_ci_low" not in numbers:
        return f"{mean} (no interval: fewer than {FEWEST} patients)"
    low, high = (form.format(numbers[f"{name}_ci_{end}"]) for end in ("low", "high"))
    return f"{mean} (95 % interval {low} to {high})"


def against_rule(numbers: Numbers) -> str:
    """Return a sentence that compares the model with the threshold rule; "" if the rule was not measured."""
    if "test_better_than_rule" not in numbers:
        return ""
    better = "Better" if numbers["test_better_than_rule"] else "Not better"
    model, rule = numbers["test_dice_mean"], numbers["test_rule_dice_mean"]
    return f"{better} than a threshold rule without a network: Dice {model:.3f} against {rule:.3f}."


def not_better(numbers: Numbers) -> str:
    """Return that sentence if the model is not better than the rule; else ""."""
    return "" if numbers.get("test_better_than_rule", 1) else against_rule(numbers)


def out_of_fold(folds: float) -> str:
    """Return how the numbers of a cross-validation were obtained."""
    return (
        f"These numbers are out-of-fold: of {folds:.0f} networks, each patient was predicted by the one that had not "
        "seen the patient. The model is the mean of these networks, which was never tested itself."
    )


def sentence(numbers: Numbers, synthetic: bool) -> str:
    """Return the first sentences of the model card and the registry: Dice, comparison with the rule, intended use."""
    patients, free = numbers["test_patients"], numbers.get("test_patients_lesion_free", 0)
    group = "synthetic demo patients" if synthetic else "held-out patients"
    if "test_lesion_dice_mean" in numbers:
        sentences = [f"Dice {in_words(numbers, 'test_lesion_dice')} on the {patients - free:.0f} {group} with a lesion"]
    else:
        sentences = [f"Dice {in_words(numbers, 'test_dice')} on {patients:.0f} {group}"]
    sentences[0] += ": it says nothing about real ones." if synthetic else "."
    if folds := numbers.get("test_folds"):
        sentences.append(out_of_fold(folds))
    if verdict := against_rule(numbers):
        sentences.insert(0 if not_better(numbers) else 1, verdict)
    return " ".join([*sentences, "Research use only."])
