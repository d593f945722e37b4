"""Results of the threshold rule without a network on the same test scans: the baseline that a model must beat."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.artifacts.cases import Case
from components.artifacts.evaluation import ScanResult
from components.core.step import progress
from components.evaluate.metrics import case_metrics, lesion_dice, over_patients, patient_means
from components.model.threshold_rule import rule_mask
from components.scans.head import find_head
from components.scans.volumes import read


def measure_rule(folder: Path, cases: Sequence[Case]) -> list[dict[str, float | None]]:
    """Return `rule_dice`, `rule_lesion_f1` (any touch) and `rule_ml` of each case; `folder` holds the volumes."""
    results = []
    for case in progress(cases, what="measured with the rule"):
        volume, truth = (read(folder / case.files[kind])[0] for kind in ("dwi", "mask"))
        mask = rule_mask(volume, case.voxel_mm, find_head(volume, case.voxel_mm).mask)
        metrics = case_metrics(mask, truth > 0, case.voxel_mm)
        results.append(
            {"rule_dice": metrics["dice"], "rule_lesion_f1": metrics["lesion_f1"], "rule_ml": metrics["predicted_ml"]}
        )
    return results


def rule_summary(scans: Sequence[ScanResult]) -> dict[str, float]:
    """Return the rule's test metrics over patients, and 1.0 if the model's mean Dice is above the rule's, else 0.0.

    Metrics that no scan has (mL without voxel sizes, scans with or without a lesion) are left out.
    """
    dice = patient_means(scans, "rule_dice")
    out = over_patients("test_rule_dice", dice, bounded=True)
    if lesions := lesion_dice(scans, "rule_dice"):
        out |= over_patients("test_rule_lesion_dice", lesions, bounded=True)
    out["test_rule_lesion_f1_mean"] = float(np.mean(list(patient_means(scans, "rule_lesion_f1").values())))
    if false_ml := [scan.rule_ml for scan in scans if not scan.lesions and scan.rule_ml is not None]:
        out["test_rule_false_positive_ml_lesion_free_mean"] = float(np.mean(false_ml))
    model_dice = float(np.mean(list(patient_means(scans, "dice").values())))
    return out | {"test_better_than_rule": float(model_dice > out["test_rule_dice_mean"])}
