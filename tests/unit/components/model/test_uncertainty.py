"""The volume with its interval, and the reasons for review."""

import re

import numpy as np
import pytest
from scipy.special import expit

from components.artifacts.trained_model import HeadLimits, TrainedModel, UsualHeads, VolumeInterval
from components.model.average_head import portrait
from components.model.calibration import histogram
from components.model.uncertainty import assess, doubts, uncertainty, volume_interval, wide_interval
from components.scans.head import Head, find_head
from components.train.learn_average_head import learn_average
from tests.support.trained import trained

VOXEL_MM = (2.0, 2.0, 5.0)
LEARNT = VolumeInterval(level=0.9, cube_root_ml=0.5, patients=9)


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
    found = assess(probability, probability > 0.5, scan, VOXEL_MM, trained())
    assert found.lesion_ml == pytest.approx(5 * 5 * 2 * 20 / 1000)


def test_an_older_model_says_no_more_than_the_volume(scan):
    probability = cube(0.9, 5)
    found = assess(probability, probability > 0.5, scan, VOXEL_MM, trained(threshold=0.5))
    assert (found.lesion_ml_low, found.lesion_ml_high, found.level, found.review) == (None, None, None, [])


def test_without_a_voxel_size_no_volume_is_known(scan):
    probability = cube(0.9, 5)
    found = assess(probability, probability > 0.5, scan, None, trained(volume_interval=LEARNT))
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


def sure_to(most: float | None, empty: float | None = None) -> TrainedModel:
    return trained(temperature=1.0, uncertainty={"mask": most, "empty": empty})


def test_a_mask_less_sure_than_those_of_validation_is_to_be_looked_at(scan):
    unsure, sure = cube(0.6, 5), cube(0.99, 5)
    facts = sure_to(0.1)
    assert assess(sure, sure > 0.5, scan, VOXEL_MM, facts).review == []
    [said] = assess(unsure, unsure > 0.5, scan, VOXEL_MM, facts).review
    assert re.fullmatch(r"Dice expected to be 0\.75\d; 0\.900 or more in validation", said)  # 2 * 0.6 / 1.6


def test_an_empty_mask_is_to_be_looked_at_where_validation_had_none():
    outside = histogram(np.array([0.3]))
    nothing = np.zeros_like(outside)
    assert doubts(nothing, outside, sure_to(0.5)) == ["no lesion was found; every validation scan had one"]
    assert doubts(nothing, outside, sure_to(0.5, empty=0.35)) == []
    assert doubts(nothing, outside, sure_to(0.5, empty=0.2)) == [
        "no lesion found, yet a voxel of probability 0.300; up to 0.200 in validation"
    ]


def test_a_scan_unlike_those_of_training_is_to_be_looked_at(scan):
    probability = cube(0.99, 5)
    facts = trained(seen={"slice_mm": (1.0, 3.0), "slices": (5, 7)})
    said = assess(probability, probability > 0.5, scan, VOXEL_MM, facts).review
    assert said == ["slices 5.0 mm thick; training scans have 1.0 to 3.0 mm"]


def test_above_5_ml_an_interval_wider_than_the_volume_is_to_be_looked_at():
    assert wide_interval(5.1, 2.0, 7.2, LEARNT) == [
        "the volume's interval, 2.0 to 7.2 mL, is wider than the volume, 5.1 mL"
    ]
    assert wide_interval(5.1, 2.0, 7.0, LEARNT) == []
    assert wide_interval(4.9, 0.0, 20.0, LEARNT) == []
    assert wide_interval(None, None, None, None) == []


def test_a_wide_interval_is_not_said_of_a_model_of_which_it_is_usual():
    assert wide_interval(5.1, 2.0, 7.2, LEARNT.model_copy(update={"wide": 0.05})) != []
    assert wide_interval(5.1, 2.0, 7.2, LEARNT.model_copy(update={"wide": 0.06})) == []


def test_the_interval_of_a_scan_goes_the_same_way(scan):
    """7 x 7 x 2 x 10 voxels of 20 mm³ are 9.8 mL, cube root 2.14: with 0.5 off its interval is 4.4 to 18.4."""
    large = np.full((32, 24, 6), 0.001, np.float32)
    large[4:11, 4:18, 0:5] = 0.9
    [said] = assess(large, large > 0.5, scan, VOXEL_MM, trained(volume_interval=LEARNT)).review
    assert said == "the volume's interval, 4.4 to 18.4 mL, is wider than the volume, 9.8 mL"


HEAD_SHAPE = (48, 60, 12)
LIMITS = HeadLimits(most_share=0.1, share_root=0.5, unconfirmed_root=0.3, overlooked_root=0.2)


def lying_head(seed: int = 0) -> np.ndarray:
    """A scan of a head that is narrow in front and at the top, with dark fluid in the middle."""
    rng = np.random.default_rng(seed)
    x, y, s = np.meshgrid(*(np.linspace(-1, 1, n) for n in HEAD_SHAPE), indexing="ij")
    head = (x / (0.7 + 0.12 * y + rng.normal(0, 0.02))) ** 2 + (y / 0.8) ** 2 < 0.8 - 0.2 * s
    fluid = (x / 0.2) ** 2 + (y / 0.35) ** 2 + (s / 0.7) ** 2 < 1
    return np.where(head, np.where(fluid, 40, 100), 2) + rng.normal(0, 1, HEAD_SHAPE)


@pytest.fixture(scope="module")
def heads() -> UsualHeads:
    scans = [lying_head(seed) for seed in range(6)]
    average = learn_average([portrait(s, VOXEL_MM, find_head(s, VOXEL_MM)) for s in scans])
    return UsualHeads(not_found=0.0, average=average, limits=LIMITS)


def said_of(
    volume: np.ndarray, heads: UsualHeads, mask: np.ndarray | None = None, head: Head | None = None
) -> list[str]:
    probability = np.zeros(HEAD_SHAPE, np.float32) if mask is None else mask.astype(np.float32)
    return assess(probability, probability > 0.5, volume, VOXEL_MM, trained(heads=heads), head).review


def test_a_head_that_lies_as_in_training_is_nothing_unusual(heads):
    assert said_of(lying_head(10), heads) == []


@pytest.mark.parametrize(("axis", "said"), [(1, "looks upside-down"), (2, "its slices look reversed")])
def test_a_head_that_lies_otherwise_is_to_be_looked_at(heads, axis, said):
    [reason] = said_of(np.flip(lying_head(10), axis), heads)
    assert reason.startswith(said)


def test_a_mask_beyond_what_is_plausible_is_to_be_looked_at(heads):
    """A block of 1,176 voxels is a tenth of the head, and none of it is bright."""
    block = np.zeros(HEAD_SHAPE, bool)
    block[17:31, 20:41, 3:7] = True
    share = block.sum() / find_head(lying_head(10), VOXEL_MM).mask.sum()
    assert said_of(lying_head(10), heads, block) == [
        f"predicted {share:.1%} of the head; the threshold rule confirms 0.0%"
    ]


def test_a_scan_in_which_no_head_is_found_is_to_be_looked_at(heads):
    noise = np.random.default_rng(0).normal(100, 10, HEAD_SHAPE)
    assert said_of(noise, heads) == ["no head found in the scan"]


def test_unless_training_scans_had_none_either(heads):
    noise = np.random.default_rng(0).normal(100, 10, HEAD_SHAPE)
    assert said_of(noise, heads.model_copy(update={"not_found": 0.05})) != []
    assert said_of(noise, heads.model_copy(update={"not_found": 0.06})) == []


def test_a_head_that_is_known_already_is_not_sought_again(heads):
    everything = np.ones(HEAD_SHAPE, bool)
    nowhere = Head(everything, found=False)
    assert said_of(lying_head(10), heads, head=nowhere) == ["no head found in the scan"]


def test_what_could_not_be_learnt_is_not_said(heads):
    unknown = heads.model_copy(update={"average": None, "limits": None})
    assert said_of(np.flip(lying_head(10), 1), unknown, np.ones(HEAD_SHAPE, bool)) == []


def test_a_head_larger_than_the_grid_is_said_and_a_whole_plane_without_a_head_is_not():
    inside = np.zeros(HEAD_SHAPE, bool)
    inside[2:-2, 2:-2, 1:-1] = True
    facts = trained(pixel_mm=2.0)
    said = assess(inside * 0.0, inside & False, inside * 1.0, (8.0, 8.0, 5.0), facts, Head(inside)).review
    assert len(said) == 1 and said[0].startswith("the head is larger than the model's grid, and was scaled down to ")
    nowhere = Head(np.ones(HEAD_SHAPE, bool), found=False)
    assert assess(inside * 0.0, inside & False, inside * 1.0, (8.0, 8.0, 5.0), facts, nowhere).review == []
