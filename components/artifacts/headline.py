"""What the numbers of an evaluation say first, in the same words in the terminal, on pages and in the registry."""

from collections.abc import Mapping

from components.core.intervals import FEWEST

Numbers = Mapping[str, float]
LOOKED_AT = (
    "Every run measures its model on the same test patients, and every promotion decides by them. The more versions "
    "are tried, the more the best number owes to chance. Keep some patients apart whom no run has seen, and test on "
    "them once, at the end."
)
"""What a test set is that every run and every promotion reads."""


def in_words(numbers: Numbers, name: str, form: str = "{:.3f}") -> str:
    """Return the mean `NAME_mean` of a summary with its interval: "0.700 (95 % interval 0.600 to 0.800)"."""
    mean = form.format(numbers[f"{name}_mean"])
    if f"{name}_ci_low" not in numbers:
        return f"{mean} (no interval: fewer than {FEWEST} patients)"
    low, high = (form.format(numbers[f"{name}_ci_{end}"]) for end in ("low", "high"))
    return f"{mean} (95 % interval {low} to {high})"


def against_rule(numbers: Numbers) -> str:
    """Return whether the model is better than the rule without a network; "" where that was not measured."""
    if "test_better_than_rule" not in numbers:
        return ""
    better = "Better" if numbers["test_better_than_rule"] else "Not better"
    model, rule = numbers["test_dice_mean"], numbers["test_rule_dice_mean"]
    return f"{better} than a threshold rule without a network: Dice {model:.3f} against {rule:.3f}."


def not_better(numbers: Numbers) -> str:
    """Return the sentence that a summary begins with where the model is not better than the rule; else ""."""
    return "" if numbers.get("test_better_than_rule", 1) else against_rule(numbers)


def sentence(numbers: Numbers, synthetic: bool) -> str:
    """Return what the card and the registry begin with: the Dice where there is a lesion, and the rule beside it."""
    patients, free = numbers["test_patients"], numbers.get("test_patients_lesion_free", 0)
    whose = "synthetic demo patients" if synthetic else "held-out patients"
    if "test_lesion_dice_mean" in numbers:
        said = [f"Dice {in_words(numbers, 'test_lesion_dice')} on the {patients - free:.0f} {whose} with a lesion"]
    else:
        said = [f"Dice {in_words(numbers, 'test_dice')} on {patients:.0f} {whose}"]
    said[0] += ": it says nothing about real ones." if synthetic else "."
    if verdict := against_rule(numbers):
        said.insert(0 if not_better(numbers) else 1, verdict)
    return " ".join([*said, "Research use only."])
