"""The rule without a network on the test scans of the model."""

import numpy as np
import pytest

from components.artifacts.cases import Case
from components.evaluate.metrics import case_metrics
from components.evaluate.threshold_rule_score import measure_rule, rule_summary
from components.model.threshold_rule import rule_mask
from components.scans.head import find_head
from components.scans.volumes import read, write

VOXEL_MM = (2.0, 2.0, 5.0)


@pytest.fixture
def cases(tmp_path) -> list[Case]:
    """Two cases in `tmp_path`: a bright ball of 8 pixels across in an even head, and the same head without one."""
    rng, grid = np.random.default_rng(0), np.stack(np.mgrid[:96, :96, :6], -1)
    head = ((grid[..., :2] - 48) ** 2).sum(-1) < 35**2
    lesion = (((grid - (40, 60, 3)) * (1, 1, 2)) ** 2).sum(-1) < 16
    found = []
    for name, mask in (("A", lesion), ("B", np.zeros_like(lesion))):
        dwi = head * rng.normal(100, 3, head.shape) + 250 * mask
        for kind, data in (("dwi", dwi.clip(0).astype(np.float32)), ("mask", mask.astype(np.uint8))):
            write(tmp_path / f"{name}_{kind}.nii.gz", data, np.diag([*VOXEL_MM, 1]))
        files = {kind: f"{name}_{kind}.nii.gz" for kind in ("dwi", "mask")}
        found.append(Case.model_construct(case=name, patient=name, files=files, voxel_mm=VOXEL_MM))
    return found


def test_each_scan_is_measured_with_the_rule(tmp_path, cases):
    bright, even = measure_rule(tmp_path, cases)
    dwi, truth = (read(tmp_path / cases[0].files[kind])[0] for kind in ("dwi", "mask"))
    expected = case_metrics(rule_mask(dwi, VOXEL_MM, find_head(dwi, VOXEL_MM).mask), truth > 0, VOXEL_MM)
    assert bright["rule_dice"] == pytest.approx(expected["dice"], abs=0.01) and bright["rule_dice"] > 0.7
    assert bright["rule_lesion_f1"] == 1 and bright["rule_ml"] == pytest.approx(expected["predicted_ml"], rel=0.02)
    assert even == {"rule_dice": 1.0, "rule_lesion_f1": 1.0, "rule_ml": 0.0}


def test_the_rules_numbers_are_over_patients(result, free):
    scans = [
        result("A", dice=0.6, rule_dice=0.2, rule_lesion_f1=0.0),
        result("A", dice=0.8, rule_dice=0.4, rule_lesion_f1=1.0),
        result("B", dice=0.5, rule_dice=0.9, rule_lesion_f1=1.0),
        free("C", dice=1.0, rule_dice=0.0, rule_lesion_f1=0.0, rule_ml=1.5),
    ]
    found = rule_summary(scans)
    assert found["test_rule_dice_mean"] == pytest.approx((0.3 + 0.9 + 0) / 3)
    assert found["test_rule_lesion_dice_mean"] == pytest.approx((0.3 + 0.9) / 2)
    assert found["test_rule_lesion_f1_mean"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["test_rule_false_positive_ml_lesion_free_mean"] == 1.5
    assert found["test_better_than_rule"] == 1.0


@pytest.mark.parametrize(("dice", "better"), [(0.49, 0.0), (0.5, 0.0), (0.51, 1.0)])
def test_as_good_as_the_rule_is_not_better(result, dice, better):
    assert rule_summary([result("A", dice=dice, rule_dice=0.5)])["test_better_than_rule"] == better


def test_five_patients_give_the_rule_an_interval(result):
    found = rule_summary([result(str(n), rule_dice=0.1 * n) for n in range(5)])
    assert found["test_rule_dice_ci_low"] < 0.2 < found["test_rule_dice_ci_high"]


def test_metrics_that_were_not_measured_are_left_out(result, free):
    assert "test_rule_false_positive_ml_lesion_free_mean" not in rule_summary([result("A")])
    assert "test_rule_false_positive_ml_lesion_free_mean" not in rule_summary([free("A", rule_ml=None)])
    assert "test_rule_lesion_dice_mean" not in rule_summary([free("A")])
