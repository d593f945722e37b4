"""Heads that are pointed at the front and at the top, and darker inside: a flip of either axis is seen, no other."""

import re

import numpy as np
import pytest

from components.artifacts.trained_model import AverageHead
from components.model.average_head import CELLS, Portrait, differences_from_average, portrait
from components.scans.head import Head
from components.train.learn_average_head import learn_average

SHAPE = (48, 60, 16)
MM = (3.5, 3.5, 9.0)
UPSIDE_DOWN = ["looks upside-down: its outline fits the training heads better with front and back swapped"]
REVERSED = ["its slices look reversed: its outline fits the training heads better with top and bottom swapped"]


def scan(seed: int, lesion: bool = False) -> tuple[np.ndarray, Head]:
    """Narrow in front (low y) and at the top (high s); fluid in the middle is dark; tissue is 100."""
    rng = np.random.default_rng(seed)
    x, y, s = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    wide = 0.75 + 0.15 * y + rng.normal(0, 0.02)
    high = 0.8 - 0.2 * s + rng.normal(0, 0.02)
    head = (x / wide) ** 2 + (y / 0.85) ** 2 < high
    fluid = (x / 0.25) ** 2 + ((y - 0.1) / 0.4) ** 2 + (s / 0.6) ** 2 < 1
    volume = head * rng.normal(100, 5, SHAPE)
    volume[fluid] *= 0.4
    if lesion:
        volume[((x - 0.35) / 0.3) ** 2 + ((y - 0.2) / 0.4) ** 2 + (s / 0.6) ** 2 < 1] = 300
    return volume.astype(np.float32), Head(head)


def of(volume: np.ndarray, head: Head, flipped: tuple[int, ...] = (), voxel_mm=MM) -> Portrait:
    mask = np.flip(head.mask, flipped)
    return portrait(np.flip(volume, flipped), voxel_mm, Head(mask))


@pytest.fixture(scope="module")
def learnt() -> AverageHead:
    return learn_average([of(*scan(seed)) for seed in range(8)])


def test_a_portrait_is_of_the_head_and_its_box():
    """A head of 24 x 12 x 8 voxels at 50, but for one plane of x at 200: its cell of two planes has 125 / 50."""
    volume = np.zeros((40, 30, 10), np.float32)
    volume[10:34, 9:21, 1:9] = 50
    volume[10, 9:21, 1:9] = 200
    here = portrait(volume, MM, Head(volume > 0))
    assert here.outline == pytest.approx(np.ones(CELLS))
    assert here.brightness[0] == pytest.approx(np.full(CELLS[1:], 2.5))
    assert here.brightness[1:] == pytest.approx(np.ones((11, 12, 8)))


def test_voxels_across_a_border_count_for_both_cells():
    """18 voxels in 12 cells of 1.5: the first cell holds plane 0, the second plane 2, the third half of plane 4."""
    mask = np.zeros((18, 12, 8), bool)
    mask[::2] = True
    mask[17, 0, 0] = True
    outline = portrait(mask.astype(np.float32), MM, Head(mask)).outline
    assert outline[:3, 5, 5] == pytest.approx([1 / 1.5, 1 / 1.5, 0.5 / 1.5])


def test_cells_with_little_head_have_no_brightness():
    volume, head = scan(0)
    here = of(volume, head)
    assert np.isnan(here.brightness[0, 0, 7]) and here.outline[0, 0, 7] < 0.5
    assert np.isfinite(here.brightness[6, 6, 4])


@pytest.mark.parametrize(
    ("flipped", "said"),
    [
        ((), []),
        ((0,), []),
        ((1,), UPSIDE_DOWN),
        ((2,), REVERSED),
        ((1, 2), UPSIDE_DOWN + REVERSED),
        ((0, 1, 2), UPSIDE_DOWN + REVERSED),
    ],
    ids=["as it is", "left-right", "front-back", "slices", "both", "all"],
)
@pytest.mark.parametrize("lesion", [False, True])
def test_a_flip_is_seen_except_of_left_and_right(learnt, flipped, said, lesion):
    for seed in range(20, 30):
        assert differences_from_average(of(*scan(seed, lesion), flipped), learnt) == said


def test_fluid_brighter_than_tissue_is_no_dwi(learnt):
    volume, head = scan(20)
    inverted = np.where(head.mask, 200 - volume, 0)
    [said] = differences_from_average(of(inverted, head), learnt)
    assert said.startswith("does not look like a DWI (is it a b0 or an ADC map?): its brightness correlates with ")


def test_a_large_lesion_does_not_make_it_another_kind_of_scan(learnt):
    assert differences_from_average(of(*scan(20, lesion=True)), learnt) == []


def test_a_head_without_contrast_is_like_none(learnt):
    _, head = scan(20)
    [said] = differences_from_average(of(np.where(head.mask, 100, 0), head), learnt)
    assert re.search(r"correlates with the training heads by -?0\.00, usually by 0\.50 or more", said)


@pytest.mark.parametrize("swapped", [False, True])
def test_without_a_voxel_size_left_right_is_found_by_symmetry(learnt, swapped):
    volume, head = scan(20)
    flips = {0: [], 1: UPSIDE_DOWN, 2: REVERSED}
    if swapped:
        volume, head = volume.swapaxes(0, 1), Head(head.mask.swapaxes(0, 1))
        flips = {0: UPSIDE_DOWN, 1: [], 2: REVERSED}
    for axis, said in flips.items():
        assert differences_from_average(of(volume, head, (axis,), voxel_mm=None), learnt) == said


def test_where_training_scans_lie_either_way_nothing_is_said():
    """Half of them have their slices reversed: their order says nothing, their front and back still do."""
    mixed = learn_average([of(*scan(seed), (2,) * (seed % 2)) for seed in range(8)])
    for flipped in ((), (2,)):
        assert differences_from_average(of(*scan(20), flipped), mixed) == []
    assert differences_from_average(of(*scan(20), (1,)), mixed) == UPSIDE_DOWN


def test_of_fewer_than_five_heads_there_is_no_average():
    portraits = [of(*scan(seed)) for seed in range(5)]
    assert learn_average(portraits[:4]) is None
    assert learn_average(portraits) is not None


def test_what_is_learnt_is_small_and_can_be_written_as_json(learnt):
    text = learnt.model_dump_json()
    assert AverageHead.model_validate_json(text) == learnt
    assert len(text) < 4000
