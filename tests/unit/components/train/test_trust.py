"""What a model learns of itself from the validation patients: how far off, how sure, on what kind of scans."""

import json

import numpy as np
import pytest
import torch
from scipy.special import logit

from components.train.trust import attained, learn_trust

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
    """learn(train=(...)): the facts for the cases added so far; sigmoid(max(slice, 0) - 6) at a threshold of 0.5."""

    def run(train: tuple[str, ...] = ()) -> dict:
        torch.save(ramp_network(bias=-6.0).state_dict(), tmp_path / "best_model.pth")
        facts = {"base_channels": 4, "precision": "float32", "threshold": 0.5}
        (tmp_path / "model.json").write_text(json.dumps(facts))
        cases = slices.read()
        validation = [case for case in cases if case.case not in train]
        return learn_trust(tmp_path, slices.folder, validation, list(train))

    return run


def test_a_network_that_is_as_often_right_as_it_says_keeps_its_probabilities(slices, learn):
    """Of 400 voxels said to be lesion with 0.8, 320 are."""
    slices.add("A", shown(block((20, 20)), logit(0.8)), block((16, 20)))
    assert learn()["temperature"] == pytest.approx(1, abs=0.02)


def test_one_that_is_less_often_right_than_it_says_is_cooled(slices, learn):
    """0.98 said, 0.8 right: the temperature is the ratio of the two logits."""
    slices.add("A", shown(block((20, 20)), logit(0.98)), block((16, 20)))
    assert learn()["temperature"] == pytest.approx(logit(0.98) / logit(0.8), rel=0.02)


def test_the_temperature_is_of_the_voxels_of_all_patients(slices, learn):
    """Half right and all right at the same 0.9: three quarters together."""
    slices.add("A", shown(block((20, 20)), logit(0.9)), block((10, 20)))
    slices.add("B", shown(block((20, 20)), logit(0.9)), block((20, 20)))
    assert learn()["temperature"] == pytest.approx(logit(0.9) / logit(0.75), rel=0.02)


def test_the_interval_is_how_far_cube_roots_of_volumes_were_off(slices, learn):
    """64 of 125 mm³ voxels of 8 mL found, 27 mL true: cube roots 2 and 3. One patient gives a level of one half."""
    slices.add("A", shown(block((8, 8))), block((12, 18)), voxel_mm=(5, 5, 5))
    assert learn()["volume_interval"] == {"cube_root_ml": pytest.approx(1.0), "level": 0.5, "patients": 1}


def test_a_patient_counts_once_with_the_scan_that_was_farthest_off(slices, learn):
    slices.add("A", shown(block((8, 8))), block((12, 18)), voxel_mm=(5, 5, 5))
    slices.add("A again", shown(block((8, 8))), block((8, 8)), voxel_mm=(5, 5, 5))
    slices.entries[1]["patient"] = "A"
    assert learn()["volume_interval"]["patients"] == 1
    assert learn()["volume_interval"]["cube_root_ml"] == pytest.approx(1.0)


def test_without_voxel_sizes_there_is_no_interval(slices, learn):
    slices.add("A", shown(block((8, 8))), block((8, 8)), voxel_mm=None)
    assert "volume_interval" not in learn()


def test_doubt_is_told_apart_for_masks_and_for_empty_ones(slices, learn):
    slices.add("sure", shown(block((20, 20)), logit(0.8)), block((16, 20)))
    slices.add("nothing", shown(block((3, 3)), logit(0.3)), block((0, 0)))
    facts = learn()
    assert 0.1 < facts["uncertainty"]["mask"] < 0.4  # Dice expected at 0.8 a voxel: 2 * 0.8 / 1.8
    assert facts["uncertainty"]["empty"] == pytest.approx(0.3, abs=0.1)


def test_where_every_scan_got_a_mask_nothing_is_known_of_empty_ones(slices, learn):
    slices.add("A", shown(block((8, 8))), block((8, 8)))
    assert learn()["uncertainty"]["empty"] is None


def test_what_was_seen_is_of_training_and_validation_scans(slices, learn):
    for name, count, mm in (("T", 2, 1.0), ("V", 4, 3.0)):
        slices.add(name, shown(block(*[(8, 8)] * count)), block(*[(8, 8)] * count), voxel_mm=(1, 1, mm))
    assert learn(train=("T",))["seen"]["slices"] == [2, 4]
    assert learn(train=("T",))["seen"]["slice_mm"] == [1.0, 3.0]


def test_it_can_be_written_as_json(slices, learn):
    slices.add("A", shown(block((8, 8))), block((9, 8)))
    assert json.loads(json.dumps(learn(), allow_nan=False)) == learn()


def test_nine_patients_are_enough_for_nine_tenths():
    assert attained([float(i) for i in range(1, 10)], 90) == (9.0, 0.9)
    assert attained([float(i) for i in range(1, 9)], 90) == (8.0, pytest.approx(8 / 9))
    assert attained([float(i) for i in range(1, 20)], 90) == (18.0, 0.9)
    assert attained([], 90) == (None, None)


@pytest.mark.parametrize("patients", [5, 9, 40])
def test_a_further_one_lies_within_as_often_as_promised(patients):
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(4000, patients + 1))
    bounds, levels = zip(*(attained(row[:-1].tolist(), 90) for row in draws), strict=True)
    assert np.mean(draws[:, -1] <= bounds) >= levels[0] - 0.015
