import numpy as np
import pytest
from scipy import ndimage

from components.artifacts.slices import GridPlacement
from components.model.placement import Placement, image_slices, place, voxel_ml
from components.scans.head import Head, find_head

MM = (2.0, 2.0, 5.0)


def ellipse(shape, centre, radii) -> np.ndarray:
    at = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return sum(((x - c) / r) ** 2 for x, c, r in zip(at, centre, radii, strict=True)) <= 1


def scan(shape=(96, 100, 9), centre=(46, 52, 4), radii=(33, 41, 4.5), seed=0) -> np.ndarray:
    """A head of 132 x 164 mm, brighter on one side, in noisy air."""
    rng, inside = np.random.default_rng(seed), ellipse(shape, centre, radii)
    tissue = 100 + np.arange(shape[0])[:, None, None] / 4 + rng.normal(0, 8, shape)
    return np.where(inside, tissue, np.abs(rng.normal(0, 3, shape))).astype(np.float32)


def placed(volume, mm=MM, size=96, pixel_mm=2.0) -> Placement:
    return place(volume, mm, size, pixel_mm, find_head(volume, mm))


def shown(volume, mm=MM, normalization="head", size=96, pixel_mm=2.0) -> np.ndarray:
    head = find_head(volume, mm)
    placement = place(volume, mm, size, pixel_mm, head)
    return np.stack([*image_slices(volume, placement, normalization, head)]).astype(np.float32)


def alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


# Where the grid lies


def test_the_middle_of_the_head_is_the_middle_of_the_grid():
    placement = placed(scan())
    np.testing.assert_allclose(placement.centre, (46, 52), atol=0.3)
    assert placement.step == (1, 1) and placement.shrunk == 1


def test_pixels_are_of_one_size_in_mm_whatever_the_voxels():
    placement = place(scan(), (1.0, 0.5, 5.0), 96, 1.5, Head(ellipse((96, 100, 9), (46, 52, 4), (33, 41, 5))))
    assert placement.step == (1.5, 3.0)


def test_the_whole_plane_is_resized_where_no_pixel_size_is_asked_for():
    assert place(scan(), MM, 64, 0, None) == Placement((96, 100, 9), 64, stop=9)


def test_slices_without_head_are_not_shown():
    volume = np.concatenate([np.zeros((96, 100, 3), np.float32), scan(), np.zeros((96, 100, 2), np.float32)], axis=2)
    one, other = placed(scan()), placed(volume)
    assert (other.first, other.stop) == (one.first + 3, one.stop + 3)
    np.testing.assert_array_equal(shown(volume), shown(scan()))


def test_a_head_that_does_not_fit_is_scaled_down_and_says_by_how_much():
    placement = placed(scan(), size=64)  # 128 mm for a head of 164
    assert placement.shrunk == pytest.approx(128 / 164, abs=0.05)
    assert placement.step == (1 / placement.shrunk,) * 2
    lesion = ellipse((96, 100, 9), (46, 90, 4), (3, 3, 1))
    assert (placement.home(placement.mask(lesion)) >= 0.5).sum() == pytest.approx(lesion.sum(), rel=0.4)


def test_without_a_voxel_size_the_length_of_the_head_sets_the_scale():
    placement = place(scan(), None, 96, 2.0, find_head(scan(), None))
    assert placement.step[0] == placement.step[1]
    assert 170 / 2 * placement.step[1] == pytest.approx(80, abs=2)  # the head's length, in pixels and in voxels


def test_without_a_voxel_size_left_right_is_where_the_head_is_symmetric():
    as_it_is, turned = scan(), scan().transpose(1, 0, 2)
    assert not placed(as_it_is, None).swapped and placed(turned, None).swapped
    assert alike(shown(turned, None), shown(as_it_is, None)) > 0.95


def test_without_a_head_the_whole_plane_is_in_the_middle():
    flat = np.random.default_rng(0).normal(50, 5, (40, 60, 4)).astype(np.float32)
    placement = placed(flat)
    np.testing.assert_allclose(placement.centre, (19.5, 29.5), atol=0.01)


def test_a_placement_survives_its_json():
    for placement in (placed(scan()), place(scan(), MM, 64, 0, None)):
        text = GridPlacement(**placement.as_dict()).model_dump_json()
        assert Placement(**GridPlacement.model_validate_json(text).model_dump()) == placement


# What the network sees


@pytest.mark.parametrize("sides", [((16, 0), (0, 0), (0, 0)), ((9, 31), (17, 5), (0, 0))])
def test_black_voxels_around_the_scan_are_not_seen(sides):
    np.testing.assert_allclose(shown(np.pad(scan(), sides)), shown(scan()), atol=0.02)


@pytest.mark.parametrize(("factor", "offset"), [(0.01, 0), (37, 0), (1, 500)])
def test_the_unit_of_intensity_is_not_seen(factor, offset):
    assert alike(shown(scan() * factor + offset), shown(scan())) > 0.9999


def test_a_mirrored_head_is_the_mirrored_picture():
    assert alike(shown(scan()[::-1].copy())[:, :, ::-1], shown(scan())) > 0.9999


def test_intensities_are_measured_against_the_head_and_nothing_is_outside():
    volume = scan()
    head, placement = find_head(volume, MM), placed(volume)
    low, median, high = head.smooth_quartiles(volume)
    got = placement.home(shown(volume))
    block = np.s_[26:66, 32:72, 4]
    assert got[block].mean() == pytest.approx((volume[block].mean() - median) / (high - low), abs=0.05)
    assert not got[~ndimage.binary_dilation(head.seen, np.ones((5, 5, 1)))].any()


def test_a_spike_is_clipped_and_a_small_lesion_is_not():
    volume = scan()
    lesion = ellipse(volume.shape, (50, 60, 4), (2, 2, 0.5))
    volume[lesion] = 300
    volume[30, 50, 4] = 1e6
    seen = shown(volume)
    assert seen.max() < 40 and seen.max() > 5


def test_what_no_tissue_reaches_is_held_within_half_precision():
    volume = scan()
    head = find_head(volume, MM)
    flat = np.where(head.mask, 1000 + volume / 1e3, 0).astype(np.float32)
    flat[44:48, 50:54, 4] = 5000
    seen = shown(flat)
    assert np.isfinite(seen).all() and seen.max() == 100


# There and back


@pytest.mark.parametrize("lesion", ["one voxel", "scattered voxels", "blobs"])
@pytest.mark.parametrize(("mm", "pixel_mm"), [((2.0, 2.0, 5.0), 1.0), ((2.0, 2.1, 5.0), 0.9), ((2.0, 2.0, 2.0), 0.7)])
def test_a_mask_comes_home_exactly_from_pixels_at_most_half_as_large_as_voxels(mm, pixel_mm, lesion):
    volume, rng = scan(), np.random.default_rng(1)
    placement = placed(volume, mm, size=384, pixel_mm=pixel_mm)
    mask = np.zeros(volume.shape, bool)
    if lesion == "one voxel":
        mask[40, 50, 3] = True
    elif lesion == "scattered voxels":
        mask[20:70, 20:80, 1:8] = rng.random((50, 60, 7)) < 0.3
    else:
        mask = ellipse(volume.shape, (40, 60, 4), (7, 5, 2))
    assert np.array_equal(placement.home(placement.mask(mask)) >= 0.5, mask)


def test_a_hair_in_the_voxel_size_changes_no_more_than_a_hair():
    """A quaternion in the header gives 2.0000001 mm where a matrix gives 2."""
    volume = scan()
    lesion = ellipse(volume.shape, (50, 40, 4), (9, 6, 2)).astype(np.float32)
    one, other = placed(volume), placed(volume, (2.0000001, 2.0, 5.0))
    pixels = np.stack([one.image(lesion[:, :, s].T) for s in range(one.first, one.stop)])
    np.testing.assert_allclose(one.home(pixels), other.home(pixels), atol=1e-4)
    np.testing.assert_allclose(shown(volume), shown(volume, (2.0000001, 2.0, 5.0)), atol=0.01)


def test_with_larger_pixels_a_lesion_comes_home_nearly():
    lesion = ellipse((96, 100, 9), (50, 40, 4), (9, 6, 2))
    placement = placed(scan(), (1.0, 1.0, 5.0), size=96, pixel_mm=2.0)
    back = placement.home(placement.mask(lesion)) >= 0.5
    assert 2 * (back & lesion).sum() / (back.sum() + lesion.sum()) > 0.9


def test_a_constant_stays_constant_inside_and_is_nothing_beyond_the_grid():
    placement = placed(scan(), (1.0, 1.0, 5.0), size=64, pixel_mm=1.5)
    ones = placement.home(np.ones((placement.slices, 64, 64), np.float32))
    assert set(np.round(ones[46, 52], 5)) <= {0.0, 1.0}
    assert ones[46, 52, 4] == pytest.approx(1)
    assert not ones[:, :, : placement.first].any()


def test_the_volume_of_a_voxel_without_a_size_is_a_common_one():
    assert voxel_ml((2.0, 2.0, 5.0)) == pytest.approx(0.02)
    assert voxel_ml(None) == pytest.approx(1.8 * 1.8 * 5 / 1000)
