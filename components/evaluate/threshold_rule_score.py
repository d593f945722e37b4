"""The rule without a network on the same test scans: what a model must be better than."""

from pathlib import Path

import numpy as np

from components.core.step import progress
from components.evaluate.metrics import case_metrics, lesion_dice, over_patients, patient_means
from components.model.threshold_rule import rule_mask
from components.scans.head import find_head
from components.scans.volumes import read


def measure_rule(cases: Path, records: list[dict]) -> list[dict]:
    """Return `rule_dice`, `rule_lesion_f1` (any touch) and `rule_ml` of each of the scans `records`."""
    results = []
    for record in progress(records, what="measured with the rule"):
        volume, truth = (read(cases / record["files"][kind])[0] for kind in ("dwi", "mask"))
        voxel_mm = record["voxel_mm"]
        found = case_metrics(rule_mask(volume, voxel_mm, find_head(volume, voxel_mm).mask), truth > 0, voxel_mm)
        results.append(
            {"rule_dice": found["dice"], "rule_lesion_f1": found["lesion_f1"], "rule_ml": found["predicted_ml"]}
        )
    return results


def yardstick(cases: list[dict]) -> dict[str, float]:
    """Return the rule's test metrics over patients, and whether the model's mean Dice is above the rule's (1.0, 0.0).

    What no scan has (mL without voxel sizes, scans with or without a lesion) is left out.
    """
    dice = patient_means(cases, "rule_dice")
    out = over_patients("test_rule_dice", dice, bounded=True)
    if lesions := lesion_dice(cases, "rule_dice"):
        out |= over_patients("test_rule_lesion_dice", lesions, bounded=True)
    out["test_rule_lesion_f1_mean"] = float(np.mean(list(patient_means(cases, "rule_lesion_f1").values())))
    if free := [case["rule_ml"] for case in cases if not case["lesions"] and case["rule_ml"] is not None]:
        out["test_rule_false_positive_ml_lesion_free_mean"] = float(np.mean(free))
    ours = float(np.mean(list(patient_means(cases, "dice").values())))
    return out | {"test_better_than_rule": float(ours > out["test_rule_dice_mean"])}
