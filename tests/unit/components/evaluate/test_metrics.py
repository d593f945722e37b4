"""The ISLES'22 metrics, each against another implementation and against cases worked out by hand."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from skimage.measure import label

from components.artifacts.evaluation import ScanResult
from components.core.intervals import bounded_mean_interval, mean_interval
from components.evaluate.metrics import case_metrics, dice, iou, relative_volume_difference, slice_dices, summary
from tests.support.scan_results import scan_result

VOXEL_MM = (2.0, 2.0, 5.0)
"""20 mm³: fifty voxels are one millilitre."""


def mask(*voxels: tuple[int, int, int], shape=(8, 8, 6)) -> np.ndarray:
    out = np.zeros(shape, bool)
    for voxel in voxels:
        out[voxel] = True
    return out


def random_pairs(count: int = 60) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prediction and truth from nearly empty to nearly full; dense ones join into few large components."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        density = rng.choice([0, 0.01, 0.03, 0.06, 0.3, 0.9], 2)
        pairs.append(tuple(rng.random((8, 9, 5)) < d for d in density))
    return pairs


def components_by_hand(volume: np.ndarray) -> list[set[tuple[int, ...]]]:
    """26-connected components by walking from voxel to voxel."""
    left = {tuple(map(int, v)) for v in np.argwhere(volume)}
    found = []
    while left:
        component, todo = set(), [left.pop()]
        while todo:
            voxel = todo.pop()
            component.add(voxel)
            around = {tuple(np.add(voxel, step).tolist()) for step in itertools.product((-1, 0, 1), repeat=3)} & left
            left -= around
            todo += around
        found.append(component)
    return found


def lesion_f1_by_hand(predicted: np.ndarray, truth: np.ndarray) -> float:
    """ISLES'22: a true lesion with any predicted voxel is a TP, a predicted one on no true voxel an FP."""
    predicted_lesions, true_lesions = components_by_hand(predicted), components_by_hand(truth)
    if not predicted_lesions and not true_lesions:
        return 1.0
    tp = sum(any(predicted[v] for v in lesion) for lesion in true_lesions)
    fn = len(true_lesions) - tp
    fp = sum(not any(truth[v] for v in lesion) for lesion in predicted_lesions)
    return tp / (tp + (fp + fn) / 2)


@pytest.fixture(scope="module")
def pairs():
    found = random_pairs()
    assert any(not p.any() and not t.any() for p, t in found)
    assert any(p.any() and not t.any() for p, t in found)
    assert any(not p.any() and t.any() for p, t in found)
    return found


@pytest.mark.parametrize(("ours", "monais"), [(dice, "DiceMetric"), (iou, "MeanIoU")])
def test_dice_and_iou_are_monais(pairs, ours, monais):
    from monai import metrics  # seconds

    theirs = getattr(metrics, monais)(ignore_empty=False)
    for predicted, truth in pairs:
        as_monai = [torch.from_numpy(m)[None, None].float() for m in (predicted, truth)]
        assert ours(predicted, truth) == pytest.approx(float(theirs(*as_monai)), abs=1e-6)


def test_dice_and_iou_of_a_hand_worked_case():
    truth = mask((0, 0, 0), (1, 0, 0), (2, 0, 0))
    predicted = mask((1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0), (5, 0, 0))
    assert dice(predicted, truth) == 2 * 2 / (5 + 3)
    assert iou(predicted, truth) == 2 / 6


def test_lesions_are_counted_as_scikit_image_counts_them(pairs):
    for predicted, truth in pairs:
        measured = case_metrics(predicted, truth, VOXEL_MM)
        counts = [int(label(m, connectivity=3).max()) for m in (predicted, truth)]
        assert measured["lesions"] == counts[1]
        assert measured["lesion_count_difference"] == abs(counts[0] - counts[1])


def test_lesion_f1_is_that_of_the_challenge_by_brute_force(pairs):
    scores = [case_metrics(predicted, truth, None)["lesion_f1"] for predicted, truth in pairs]
    assert scores == pytest.approx([lesion_f1_by_hand(predicted, truth) for predicted, truth in pairs])
    assert len({round(s, 3) for s in scores if 0 < s < 1}) > 10  # the draw is worth comparing


def test_a_scan_without_lesion_and_without_prediction_is_perfect():
    measured = case_metrics(mask(), mask(), VOXEL_MM)
    assert (measured["dice"], measured["iou"], measured["lesion_f1"]) == (1.0, 1.0, 1.0)
    assert (measured["absolute_volume_difference_ml"], measured["lesion_count_difference"]) == (0, 0)


@pytest.mark.parametrize(("predicted", "truth"), [(mask((1, 1, 1)), mask()), (mask(), mask((1, 1, 1)))])
def test_one_empty_and_one_not_is_the_worst(predicted, truth):
    measured = case_metrics(predicted, truth, VOXEL_MM)
    assert (measured["dice"], measured["iou"], measured["lesion_f1"]) == (0.0, 0.0, 0.0)
    assert measured["lesion_count_difference"] == 1


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    truth = mask((1, 1, 1), (2, 2, 2))
    assert case_metrics(mask(), truth, None)["lesions"] == 1


def test_voxels_with_one_between_them_are_two_lesions():
    truth = mask((1, 1, 1), (1, 1, 3))
    assert case_metrics(mask(), truth, None)["lesions"] == 2


def test_one_prediction_that_touches_two_lesions_finds_both():
    truth = mask((1, 1, 1), (5, 1, 1))
    predicted = mask(*((x, 1, 1) for x in range(1, 6)))
    measured = case_metrics(predicted, truth, None)
    assert (measured["lesions"], measured["lesions_found"], measured["false_lesions"]) == (2, 2, 0)
    assert measured["lesion_f1"] == 1.0
    assert measured["lesion_count_difference"] == 1


def test_two_predictions_on_one_lesion_are_one_hit_and_nothing_false():
    truth = mask(*((x, 1, 1) for x in range(1, 6)))
    measured = case_metrics(mask((1, 1, 1), (5, 1, 1)), truth, None)
    assert (measured["lesions_found"], measured["false_lesions"], measured["lesion_f1"]) == (1, 0, 1.0)


def test_hits_misses_and_false_lesions_of_a_hand_worked_case():
    """Two of three lesions are touched, one prediction touches none: F1 = 2 / (2 + (1 + 1) / 2)."""
    truth = mask((0, 0, 0), (4, 0, 0), (0, 4, 0))
    predicted = mask((0, 0, 0), (4, 0, 0), (7, 7, 5))
    measured = case_metrics(predicted, truth, None)
    assert (measured["lesions"], measured["lesions_found"], measured["false_lesions"]) == (3, 2, 1)
    assert measured["lesion_f1"] == pytest.approx(2 / 3)


def test_volumes_are_millilitres():
    truth = np.zeros((10, 10, 4), bool)
    truth[:5, :, 0] = True
    predicted = np.zeros_like(truth)
    predicted[:, :, 0] = True
    measured = case_metrics(predicted, truth, VOXEL_MM)
    assert measured["truth_ml"] == pytest.approx(1.0)
    assert measured["predicted_ml"] == pytest.approx(2.0)
    assert measured["absolute_volume_difference_ml"] == pytest.approx(1.0)
    assert (measured["truth_voxels"], measured["predicted_voxels"]) == (50, 100)


def test_the_volume_difference_has_no_sign():
    small, large = mask((0, 0, 0)), mask((0, 0, 0), (0, 0, 1), (0, 0, 2))
    over, under = (case_metrics(p, t, VOXEL_MM) for p, t in ((large, small), (small, large)))
    assert over["absolute_volume_difference_ml"] == under["absolute_volume_difference_ml"] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("predicted_ml", "truth_ml", "off"),
    [(30.0, 20.0, 0.5), (10.0, 20.0, 0.5), (0.0, 20.0, 1.0), (0.4, 0.5, 0.1), (0.0, 0.3, 0.3), (7.0, 0.0, 7.0),
     (0.0, 0.0, 0.0)],
)  # fmt: skip
def test_the_relative_difference_divides_by_the_true_volume_or_by_one_millilitre(predicted_ml, truth_ml, off):
    assert relative_volume_difference(predicted_ml, truth_ml) == pytest.approx(off)


def test_the_relative_volume_difference_of_a_scan_uses_millilitres():
    truth, predicted = np.zeros((20, 10, 1), bool), np.zeros((20, 10, 1), bool)
    truth[:10], predicted[:15] = True, True
    assert case_metrics(predicted, truth, VOXEL_MM)["relative_volume_difference"] == pytest.approx(0.5)


def test_without_a_voxel_size_there_are_no_millilitres_and_all_else_is_there():
    known, unknown = (case_metrics(mask((0, 0, 0)), mask((0, 0, 0), (0, 0, 1)), mm) for mm in (VOXEL_MM, None))
    in_ml = {
        "truth_ml", "predicted_ml", "absolute_volume_difference_ml", "relative_volume_difference",
        "surface_distance_95_mm",
    }  # fmt: skip
    assert {name for name, value in unknown.items() if value is None} == in_ml
    assert {k: v for k, v in unknown.items() if k not in in_ml} == {k: v for k, v in known.items() if k not in in_ml}


def test_the_metrics_can_be_written_as_json():
    measured = case_metrics(mask((0, 0, 0)), mask((0, 0, 1)), VOXEL_MM)
    assert json.loads(json.dumps(measured)) == measured


def test_slices_are_measured_one_by_one_and_empty_ones_are_perfect():
    truth = mask((0, 0, 0), (0, 1, 0), (3, 3, 2), shape=(4, 4, 4))
    predicted = mask((0, 1, 0), (0, 2, 0), (1, 1, 1), shape=(4, 4, 4))
    slice_dice, slice_iou = slice_dices(predicted, truth)
    assert slice_dice.tolist() == [0.5, 0.0, 0.0, 1.0]
    assert slice_iou.tolist() == [pytest.approx(1 / 3), 0.0, 0.0, 1.0]


def result(patient: str, dice: float, **fields) -> ScanResult:
    known = {
        "iou": dice / (2 - dice), "absolute_volume_difference_ml": 0.5, "relative_volume_difference": 0.25,
        "predicted_ml": 1.0, "slice_dice": [dice, 1.0], "slice_iou": [dice, 1.0],
    }  # fmt: skip
    return scan_result(patient, dice=dice, **(known | fields))


def test_mean_and_standard_deviation_are_over_patients():
    facts = summary([result("A", 0.2), result("B", 0.4), result("C", 0.9)])
    assert facts["test_dice_mean"] == pytest.approx(0.5)
    assert facts["test_dice_std"] == pytest.approx(math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 3))


FIVE = [0.2, 0.4, 0.5, 0.8, 0.9]


def test_median_and_quartiles_are_over_patients():
    facts = summary([result("A", 0.0), *(result(str(dice), dice) for dice in FIVE), result("A", 1.0)])
    for name in ("dice", "lesion_dice"):
        found = [facts[f"test_{name}_{end}"] for end in ("q1", "median", "q3")]
        assert found == pytest.approx([0.425, 0.5, 0.725])  # of 0.2, 0.4, 0.5, 0.5, 0.8, 0.9


def test_the_interval_is_of_dice_as_a_share_and_of_volumes_as_an_amount():
    scans = [result(str(dice), dice, absolute_volume_difference_ml=30 * dice) for dice in FIVE]
    facts, ends = summary(scans), ("ci_low", "ci_high")
    assert [facts[f"test_dice_{end}"] for end in ends] == [*bounded_mean_interval(FIVE)]
    volumes = [facts[f"test_absolute_volume_difference_ml_{end}"] for end in ends]
    assert volumes == [*mean_interval([30 * dice for dice in FIVE])]


def test_four_patients_have_no_interval():
    facts = summary([result(str(dice), dice) for dice in FIVE[:4]])
    assert not [name for name in facts if "_ci_" in name]


def test_the_headline_uses_scans_with_a_lesion_and_false_alarms_are_separate():
    """Patient A has one scan of either kind; B to D have no lesion, and of D one scan of two has a false one."""
    free = {"lesions": 0, "lesions_found": 0, "slice_has_lesion": [False, False]}
    scans = [
        result("A", 0.4), result("A", 0.0, **free | {"false_lesions": 3}), result("B", 1.0, **free),
        result("C", 1.0, **free), result("D", 1.0, **free), result("D", 0.0, **free | {"false_lesions": 1}),
    ]  # fmt: skip
    facts = summary(scans)
    assert facts["test_lesion_dice_mean"] == pytest.approx(0.4)
    assert facts["test_dice_mean"] == pytest.approx((0.2 + 1 + 1 + 0.5) / 4)
    assert facts["test_lesion_free_false_alarm_rate"] == pytest.approx(1 / 3)


def test_two_sessions_of_one_patient_weigh_as_one():
    facts = summary([result("A", 0.2), result("A", 0.4), result("B", 0.9)])
    assert facts["test_dice_mean"] == pytest.approx((0.3 + 0.9) / 2)
    assert facts["test_dice_std"] == pytest.approx(0.3)
    assert facts["test_patients"] == 2


@pytest.mark.parametrize(
    "name",
    [
        "dice", "iou", "absolute_volume_difference_ml", "relative_volume_difference", "lesion_count_difference",
        "lesion_f1", "lesion_f1_matched", "surface_distance_95_mm",
    ],
)  # fmt: skip
def test_every_metric_is_summarised(name):
    facts = summary([result(p, 0.9).model_copy(update={name: value}) for p, value in (("A", 1.0), ("B", 0.5))])
    assert facts[f"test_{name}_mean"] == 0.75
    assert facts[f"test_{name}_std"] == 0.25


def test_a_scan_without_millilitres_is_left_out_of_their_mean_alone():
    unknown = {"absolute_volume_difference_ml": None, "predicted_ml": None}
    facts = summary([result("A", 0.4), result("B", 0.8, **unknown)])
    assert facts["test_absolute_volume_difference_ml_mean"] == 0.5
    assert facts["test_dice_mean"] == pytest.approx(0.6)


def test_where_no_scan_has_millilitres_their_metrics_are_not_there():
    unknown = {"absolute_volume_difference_ml": None, "predicted_ml": None}
    facts = summary([result("A", 0.4, **unknown), result("B", 0.4, lesions=0, lesions_found=0, **unknown)])
    assert not [name for name in facts if "_ml" in name]


def test_the_per_slice_twins_are_over_all_slices_and_over_those_with_a_lesion():
    slices_of_a = {"slice_dice": [0.25, 1.0], "slice_has_lesion": [True, False]}
    slices_of_b = {"slice_dice": [0.75, 1.0], "slice_has_lesion": [True, False]}
    facts = summary([result("A", 0.5, **slices_of_a), result("B", 0.5, **slices_of_b)])
    assert facts["test_slice_dice_mean"] == pytest.approx(3.0 / 4)
    assert facts["test_slice_dice_std"] == pytest.approx(math.sqrt((0.5**2 + 2 * 0.25**2) / 4))
    assert facts["test_lesion_slice_dice_mean"] == pytest.approx((0.25 + 0.75) / 2)


def test_the_per_slice_iou_is_of_the_iou():
    facts = summary([result("A", 0.5, slice_iou=[0.1, 0.5], slice_has_lesion=[True, False])])
    assert facts["test_slice_iou_mean"] == pytest.approx(0.3)
    assert facts["test_lesion_slice_iou_mean"] == pytest.approx(0.1)


def test_lesion_sensitivity_pools_the_lesions_of_all_scans():
    facts = summary([result("A", 0.5, lesions=9, lesions_found=3), result("B", 0.5, lesions=1, lesions_found=1)])
    assert facts["test_lesion_sensitivity"] == pytest.approx(4 / 10)


def test_false_positive_volume_is_of_the_lesion_free_scans_alone():
    free = {"lesions": 0, "lesions_found": 0, "slice_has_lesion": [False, False]}
    facts = summary(
        [result("A", 0.5), result("B", 0.0, predicted_ml=0.4, **free), result("C", 1.0, predicted_ml=0.0, **free)]
    )
    assert facts["test_false_positive_ml_lesion_free_mean"] == pytest.approx(0.2)
    assert (facts["test_patients"], facts["test_patients_lesion_free"]) == (3, 2)


def test_a_patient_with_a_lesion_in_one_session_is_not_lesion_free():
    facts = summary([result("A", 0.5), result("A", 1.0, lesions=0, lesions_found=0)])
    assert (facts["test_patients"], facts["test_patients_lesion_free"]) == (1, 0)


def test_a_metric_without_scans_is_left_out():
    free = {"lesions": 0, "lesions_found": 0, "slice_has_lesion": [False, False]}
    without_lesions, without_free = summary([result("A", 1.0, **free)]), summary([result("A", 1.0)])
    of_lesions = {"test_lesion_sensitivity", "test_lesion_slice_dice_mean", "test_lesion_dice_mean"}
    assert not without_lesions.keys() & of_lesions
    of_free = {"test_false_positive_ml_lesion_free_mean", "test_lesion_free_false_alarm_rate"}
    assert not without_free.keys() & of_free


def test_the_summary_holds_plain_finite_numbers():
    facts = summary([result("A", 0.5), result("B", 0.7)])
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
