"""Name the metrics of an evaluation as people read them: in the terminal, on pages, in the registry."""

from typing import NamedTuple


class MetricLabel(NamedTuple):
    """`short` is for the terminal and for sentences, `long` for pages. `better` is 1 if more is better, else -1."""

    short: str
    long: str
    unit: str
    better: int

    def with_unit(self) -> str:
        """Return the short name with its unit, as the head of a column."""
        return f"{self.short} in {self.unit}" if self.unit else self.short


METRIC_LABELS = {
    "lesion_dice": MetricLabel("Dice with a lesion", "Dice, patients with a lesion", "", 1),
    "dice": MetricLabel("Dice, all patients", "Dice, all patients", "", 1),
    "iou": MetricLabel("IoU", "IoU", "", 1),
    "lesion_f1": MetricLabel("lesion F1, touched", "Lesion F1, any touch (ISLES'22)", "", 1),
    "lesion_f1_matched": MetricLabel(
        "lesion F1, matched", "Lesion F1, matched one to one (IoU of 0.25 or more)", "", 1
    ),
    "absolute_volume_difference_ml": MetricLabel("volume difference", "Absolute volume difference", "mL", -1),
    "relative_volume_difference": MetricLabel("relative volume difference", "Relative volume difference", "", -1),
    "lesion_count_difference": MetricLabel("lesion count difference", "Lesion count difference", "", -1),
    "surface_distance_95_mm": MetricLabel("surface distance", "Surface distance, 95th percentile", "mm", -1),
    "false_positive_ml_lesion_free": MetricLabel("false volume", "False volume in a scan without a lesion", "mL", -1),
}
"""Metric to its label. In a summary the metric `dice` is `test_dice_mean`, `test_dice_ci_low` and so on."""
