"""What is said of a scan beside its mask."""

import re

import numpy as np
import pytest
from scipy.special import expit

from components.unet.calibration import histogram
from components.unet.findings import doubts, findings, uncertainty, volume_interval

VOXEL_MM = (2.0, 2.0, 5.0)
LEARNT = {"level": 0.9, "cube_root_ml": 0.5}


def cube(of: float, sides: int, shape=(32, 24, 6)) -> np.ndarray:
    """Probabilities of 0.001 with a block of `sides` x `sides` x 2 voxels of another."""
    out = np.full(shape, 0.001, np.float32)
    out[4 : 4 + sides, 4 : 4 + sides, 2:4] = of
    return out


@pytest.fixture
def scan(make_scan):
    return make_scan(0, (32, 24, 6))[0]


def test_the_volume_is_that_of_the_mask(scan):
    probability = cube(0.9, 5)
    found = findings(probability, probability > 0.5, scan, VOXEL_MM, {})
    assert found.lesion_ml == pytest.approx(5 * 5 * 2 * 20 / 1000)


def test_an_older_model_says_no_more_than_the_volume(scan):
    probability = cube(0.9, 5)
    found = findings(probability, probability > 0.5, scan, VOXEL_MM, {"threshold": 0.5})
    assert (found.lesion_ml_low, found.lesion_ml_high, found.level, found.review) == (None, None, None, [])


def test_without_a_voxel_size_no_volume_is_known(scan):
    probability = cube(0.9, 5)
    found = findings(probability, probability > 0.5, scan, None, {"volume_interval": LEARNT})
    assert (found.lesion_ml, found.lesion_ml_low, found.lesion_ml_high, found.level) == (None, None, None, None)


def test_the_interval_is_even_in_the_cube_root():
    assert volume_interval(8.0, LEARNT) == pytest.approx((1.5**3, 2.5**3, 0.9))


def test_where_nothing_was_found_it_goes_from_none_to_what_was_overlooked_in_validation():
    assert volume_interval(0.0, LEARNT) == pytest.approx((0.0, 0.5**3, 0.9))


def test_it_never_goes_below_nothing():
    assert volume_interval(0.01, LEARNT)[0] == 0.0


def test_uncertainty_is_what_dice_falls_short_of_one_in_the_long_run():
    """The ratio of expectations against the mean Dice over truths drawn from the probabilities."""
    rng = np.random.default_rng(0)
    probability = expit(rng.normal(0, 2, 5000))
    mask = probability > 0.5
    dices = []
    for _ in range(300):
        truth = rng.random(5000) < probability
        dices.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    value = uncertainty(histogram(probability[mask]), histogram(probability[~mask]), 1.0)
    assert 1 - value == pytest.approx(np.mean(dices), abs=0.01)


def test_uncertainty_heeds_the_temperature():
    inside, outside = histogram(np.full(10, 0.9)), histogram(np.full(10, 0.1))
    assert uncertainty(inside, outside, 3.0) > uncertainty(inside, outside, 1.0) + 0.1


def test_an_empty_mask_is_as_uncertain_as_its_likeliest_voxel():
    nothing = histogram(np.array([]))
    assert uncertainty(nothing, histogram(np.array([0.02, 0.4, 0.1])), 1.0) == pytest.approx(0.4, abs=0.01)
    assert uncertainty(nothing, nothing, 1.0) == 0


def sure_to(most: float | None, empty: float | None = None) -> dict:
    return {"temperature": 1.0, "uncertainty": {"mask": most, "empty": empty}}


def test_a_mask_less_sure_than_those_of_validation_is_to_be_looked_at(scan):
    unsure, sure = cube(0.6, 5), cube(0.99, 5)
    facts = sure_to(0.1)
    assert findings(sure, sure > 0.5, scan, VOXEL_MM, facts).review == []
    [said] = findings(unsure, unsure > 0.5, scan, VOXEL_MM, facts).review
    assert re.fullmatch(r"Dice expected to be 0\.75\d; 0\.900 or more in validation", said)  # 2 * 0.6 / 1.6


def test_an_empty_mask_is_to_be_looked_at_where_validation_had_none():
    outside = histogram(np.array([0.3]))
    nothing = np.zeros_like(outside)
    assert doubts(nothing, outside, sure_to(0.5)) == ["no lesion found; in every validation scan one was"]
    assert doubts(nothing, outside, sure_to(0.5, empty=0.35)) == []
    assert doubts(nothing, outside, sure_to(0.5, empty=0.2)) == [
        "no lesion found, yet a voxel of probability 0.300; up to 0.200 in validation"
    ]


def test_a_scan_unlike_those_of_training_is_to_be_looked_at(scan):
    probability = cube(0.99, 5)
    facts = {"seen": {"slice_mm": [1.0, 3.0], "slices": [5, 7]}}
    said = findings(probability, probability > 0.5, scan, VOXEL_MM, facts).review
    assert said == ["slices 5.0 mm thick; learnt from 1.0 to 3.0 mm"]
