"""Calibration on the validation patients: temperature, intervals, usual doubt, usual scans."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from components.artifacts.trained_model import TrainedModel, UsualHeads, VolumeInterval
from components.model.inference import load_model
from components.train.calibrate import _share_limit, calibrate, conformal_bound
from tests.support.trained import trained

SIZE = 32


def block(*areas: tuple[int, int]) -> np.ndarray:
    """Slices (S, H, W) with a lesion of rows x columns each, from the upper left corner."""
    out = np.zeros((len(areas), SIZE, SIZE), bool)
    for lesion, (rows, columns) in zip(out, areas, strict=True):
        lesion[:rows, :columns] = True
    return out


def shown(predicted: np.ndarray, inside: float = 2.0) -> np.ndarray:
    """Slices that the network below is this sure of being lesion (as logits); elsewhere it says 0.002."""
    return np.where(predicted, inside + 6, 0.0)


@pytest.fixture
def learn(slices, tmp_path, ramp_network):
    """learn(train=(...)): the model for the cases added so far; sigmoid(max(slice, 0) - 6) at a threshold of 0.5."""

    def run(train: tuple[str, ...] = ()) -> TrainedModel:
        torch.save(ramp_network(bias=-6.0).state_dict(), tmp_path / "best_model.pth")
        trained(threshold=0.5).write(tmp_path)
        validation = [case for case in slices.read() if case.case not in train]
        training = [slices.cases[name] for name in train]
        return calibrate(*load_model(tmp_path), slices.folder, slices.cases, validation, training)

    return run


def test_a_network_that_is_as_often_right_as_it_says_keeps_its_probabilities(slices, learn):
    """Of 400 voxels said to be lesion with 0.8, 320 are."""
    slices.add("A", shown(block((20, 20)), logit(0.8)), block((16, 20)))
    assert learn().temperature == pytest.approx(1, abs=0.02)


def test_one_that_is_less_often_right_than_it_says_is_cooled(slices, learn):
    """0.98 said, 0.8 right: the temperature is the ratio of the two logits."""
    slices.add("A", shown(block((20, 20)), logit(0.98)), block((16, 20)))
    assert learn().temperature == pytest.approx(logit(0.98) / logit(0.8), rel=0.02)


def test_the_temperature_is_of_the_voxels_of_all_patients(slices, learn):
    """Half right and all right at the same 0.9: three quarters together."""
    slices.add("A", shown(block((20, 20)), logit(0.9)), block((10, 20)))
    slices.add("B", shown(block((20, 20)), logit(0.9)), block((20, 20)))
    assert learn().temperature == pytest.approx(logit(0.9) / logit(0.75), rel=0.02)


def test_the_interval_is_how_far_cube_roots_of_volumes_were_off(slices, learn):
    """64 of 125 mm³ voxels of 8 mL found, 27 mL true: cube roots 2 and 3. One patient gives a level of one half."""
    slices.add("A", shown(block((8, 8))), block((12, 18)), voxel_mm=(5, 5, 5))
    learnt = learn().volume_interval
    assert learnt == VolumeInterval(cube_root_ml=learnt.cube_root_ml, level=0.5, patients=1, wide=1.0)
    assert learnt.cube_root_ml == pytest.approx(1.0)


def test_how_usual_an_interval_wider_than_the_volume_is(slices, learn):
    """Cube roots 0.17 off: of 15 mL the interval is 12.2 to 18.4 mL, of 5.25 mL 3.9 to 7.0, of 3.4 mL not asked."""
    slices.add("A", shown(block((10, 12))), block((10, 14)), voxel_mm=(5, 5, 5))
    slices.add("B", shown(block((6, 7))), block((6, 7)), voxel_mm=(5, 5, 5))
    slices.add("C", shown(block((3, 9))), block((3, 9)), voxel_mm=(5, 5, 5))
    learnt = learn().volume_interval
    assert learnt.cube_root_ml == pytest.approx(17.5 ** (1 / 3) - 15 ** (1 / 3))
    assert learnt.wide == 0.0
    slices.add("D", shown(block((2, 7))), block((8, 7)), voxel_mm=(5, 5, 5))  # 1.75 mL found of 7: roots 0.71 off
    assert learn().volume_interval.wide == pytest.approx(3 / 3)


def test_a_model_whose_intervals_are_wide_says_so_once_in_the_log(slices, learn, caplog):
    slices.add("A", shown(block((8, 8))), block((12, 18)), voxel_mm=(5, 5, 5))
    with caplog.at_level("INFO"):
        learn()
    assert "above 5 mL the interval is wider than the volume for 100% of scans" in caplog.text


def test_a_patient_counts_once_with_the_scan_that_was_farthest_off(slices, learn):
    slices.add("A", shown(block((8, 8))), block((12, 18)), voxel_mm=(5, 5, 5))
    slices.add("A again", shown(block((8, 8))), block((8, 8)), voxel_mm=(5, 5, 5), patient="A")
    assert learn().volume_interval.patients == 1
    assert learn().volume_interval.cube_root_ml == pytest.approx(1.0)


def test_without_voxel_sizes_there_is_no_interval(slices, learn):
    slices.add("A", shown(block((8, 8))), block((8, 8)), voxel_mm=None)
    assert learn().volume_interval is None


def test_doubt_is_told_apart_for_masks_and_for_empty_ones(slices, learn):
    """Ten logits of doubt each; one more is above the bound with 0.025: their mean and 2.262 s sqrt(1.1)."""
    sure, unsure = np.linspace(0.95, 0.94, 10), np.linspace(0.1, 0.11, 10)
    for number, p in enumerate(sure):
        slices.add(f"mask {number}", shown(block((20, 20)), logit(p)), block((19, 20)))
    for number, p in enumerate(unsure):
        slices.add(f"empty {number}", shown(block((3, 3)), logit(p)), block((0, 0)))
    facts = learn()

    def bound(doubts: np.ndarray) -> float:
        values = logit(doubts)
        return expit(values.mean() + 2.262 * values.std(ddof=1) * np.sqrt(1.1))

    def cooled(p: np.ndarray) -> np.ndarray:
        return expit(logit(p) / facts.temperature)

    masks = 1 - 2 * cooled(sure) / (1 + cooled(sure))  # of a mask as sure everywhere
    assert facts.uncertainty["mask"] == pytest.approx(bound(masks), rel=0.1)
    assert facts.uncertainty["empty"] == pytest.approx(bound(cooled(unsure)), rel=0.1)


def test_of_fewer_than_ten_scans_no_doubt_is_too_large(slices, learn):
    for number in range(9):
        slices.add(f"P{number}", shown(block((20, 20)), logit(0.8)), block((16, 20)))
    assert learn().uncertainty["mask"] == 1.0


def test_where_every_scan_has_a_lesion_and_got_a_mask_nothing_is_known_of_empty_ones(slices, learn):
    slices.add("A", shown(block((8, 8))), block((8, 8)))
    assert learn().uncertainty["empty"] is None


def test_where_a_training_scan_has_no_lesion_an_empty_mask_is_nothing_unusual(slices, learn):
    slices.add("A", shown(block((8, 8))), block((8, 8)))
    slices.add("T", shown(block((8, 8))), block((0, 0)))
    assert learn(train=("T",)).uncertainty["empty"] == 1.0


def head_with(lesion: np.ndarray, seed: int = 0, bright: float = 8.0) -> np.ndarray:
    """Slices of a square head of 26 x 26 pixels at a logit of -3, in dark air, with a lesion in its corner."""
    head = np.zeros_like(lesion, float)
    head[:, 3:29, 3:29] = 3.0
    head += np.random.default_rng(seed).uniform(0, 0.01, head.shape)
    return np.where(lesion, bright, head)


def corner(*areas: tuple[int, int]) -> np.ndarray:
    return np.roll(block(*areas), (3, 3), (1, 2))


def test_the_share_of_the_head_is_that_of_true_lesions(slices, learn):
    """6 x 13 and 13 x 13 of 676 pixels, in all slices, are 3/26 and 1/4; Student's t of one degree: 63.657."""
    for name, rows in (("T", 6), ("V", 13)):
        lesion = corner(*[(rows, 13)] * 3)
        slices.add(name, head_with(lesion, bright=4.5), lesion, voxel_mm=(5, 5, 5))
    limits = learn(train=("T",)).heads.limits
    roots = np.cbrt([3 / 26, 1 / 4])
    assert limits.most_share == pytest.approx(1 / 4, rel=0.02)  # a voxel at each corner is no head
    assert limits.share_root == pytest.approx(roots.mean() + 63.657 * roots.std(ddof=1) * np.sqrt(1.5), rel=0.02)


def test_heads_are_learnt_from_training_and_validation_scans(slices, learn):
    for name in "ABCDE":
        lesion = corner((6, 7), (6, 7), (6, 7))
        slices.add(name, head_with(lesion, ord(name)), lesion, voxel_mm=(5, 5, 5))
    assert learn(train=("A", "B", "C")).heads.average is not None
    slices.entries.pop()
    assert learn(train=("A", "B", "C")).heads.average is None


def test_scans_without_a_head_are_counted(slices, learn):
    lesion = corner((6, 7), (6, 7), (6, 7))
    slices.add("head", head_with(lesion), lesion)
    slices.add("noise", np.random.default_rng(0).uniform(3, 4, lesion.shape), lesion)
    heads = learn(train=("noise",)).heads
    assert heads == UsualHeads(not_found=0.5, average=None, limits=None)


def test_what_was_seen_is_of_training_and_validation_scans(slices, learn):
    for name, count, mm in (("T", 2, 1.0), ("V", 4, 3.0)):
        slices.add(name, shown(block(*[(8, 8)] * count)), block(*[(8, 8)] * count), voxel_mm=(1, 1, mm))
    assert learn(train=("T",)).seen["slices"] == (2, 4)
    assert learn(train=("T",)).seen["slice_mm"] == (1.0, 3.0)


def test_it_is_read_as_it_was_written(slices, learn, tmp_path):
    slices.add("A", shown(block((8, 8))), block((9, 8)))
    calibrated = learn()
    calibrated.write(tmp_path)
    assert TrainedModel.read(tmp_path) == calibrated


def test_nine_patients_are_enough_for_nine_tenths():
    assert conformal_bound([float(i) for i in range(1, 10)], 90) == (9.0, 0.9)
    assert conformal_bound([float(i) for i in range(1, 9)], 90) == (8.0, pytest.approx(8 / 9))
    assert conformal_bound([float(i) for i in range(1, 20)], 90) == (18.0, 0.9)


@pytest.mark.parametrize("patients", [5, 9, 40])
def test_a_further_one_lies_within_as_often_as_promised(patients):
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(4000, patients + 1))
    bounds, levels = zip(*(conformal_bound(row[:-1].tolist(), 90) for row in draws), strict=True)
    assert np.mean(draws[:, -1] <= bounds) >= levels[0] - 0.015


def test_no_training_scan_has_an_unusual_share_of_the_head():
    shares = np.clip(np.random.default_rng(0).lognormal(-5, 1.5, 100), 0, 0.2).tolist() + [0.0] * 20
    assert _share_limit(shares) >= np.cbrt(max(shares))
    assert _share_limit([0.1]) is None
