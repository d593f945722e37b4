"""Which components are dropped, and which are not: by hand, and against scikit-image."""

import numpy as np
import pytest
from skimage.measure import label
from skimage.morphology import remove_small_objects

from components.model.lesions import lesion_mask, smallest_voxels, without_small
from tests.support.trained import trained


@pytest.fixture
def three():
    """Components of 1, 4 (touching by corners alone, over three slices) and 6 voxels."""
    volume = np.zeros((12, 10, 6), bool)
    volume[0, 0, 0] = True
    for voxel in ((4, 4, 1), (5, 5, 2), (6, 4, 3), (7, 5, 3)):
        volume[voxel] = True
    volume[9:12, 7:9, 5] = True
    return volume


@pytest.mark.parametrize(("voxels", "left"), [(0, 11), (1, 11), (1.5, 10), (4, 10), (4.1, 6), (6, 6), (7, 6)])
def test_components_of_fewer_voxels_are_dropped_but_never_the_largest(three, voxels, left):
    out = without_small(three, voxels)
    assert out.dtype == bool and out.sum() == left
    assert not (out & ~three).any()


@pytest.mark.parametrize("voxels", [2, 3, 7, 30])
def test_on_random_masks_it_is_scikit_images(voxels):
    rng = np.random.default_rng(voxels)
    for density in (0.01, 0.03, 0.06, 0.5, 1):
        mask = rng.random((20, 21, 9)) < density
        theirs = remove_small_objects(mask, max_size=voxels - 1, connectivity=3)
        ours = without_small(mask, voxels)
        assert np.array_equal(ours, theirs) if theirs.any() else label(ours, connectivity=3).max() == 1


def test_an_empty_mask_stays_empty():
    assert not without_small(np.zeros((4, 4, 4), bool), 3).any()


def test_a_size_in_ml_counts_with_the_scans_own_voxels(three):
    facts = trained(threshold=0.5, smallest_lesion_ml=0.05)
    assert smallest_voxels(0.05, None, (2.0, 2.0, 5.0)) == pytest.approx(2.5)
    assert lesion_mask(three * 0.5, facts, (2.0, 2.0, 5.0)).sum() == 10
    assert lesion_mask(three * 0.5, facts, (1.0, 2.0, 5.0)).sum() == 6
    assert lesion_mask(three * 0.5, facts, None).sum() == 11


def test_a_size_in_voxels_counts_whatever_their_size(three):
    facts = trained(threshold=0.5, smallest_lesion_voxels=5)
    for voxel_mm in (None, (1.0, 1.0, 1.0), (2.0, 2.0, 5.0)):
        assert lesion_mask(three * 0.5, facts, voxel_mm).sum() == 6


def test_without_clean_up_it_is_the_threshold():
    probability = np.random.default_rng(0).random((6, 6, 4))
    assert np.array_equal(lesion_mask(probability, trained(threshold=0.7), (1, 1, 1)), probability >= 0.7)
