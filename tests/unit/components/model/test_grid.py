import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from skimage.measure import block_reduce
from skimage.transform import resize

from components.model.grid import neighbours, scaled_adc
from components.scans.volumes import read
from tests.support.whole_plane import adc_to_model_grid, mask_to_model_grid, to_model_grid, to_native_grid

HALF = {"rtol": 2e-3, "atol": 2e-3}
"""float16 keeps 11 bits."""


@pytest.fixture
def volume():
    return np.random.default_rng(0).gamma(2, 100, (32, 32, 4)).astype(np.float32)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def home_again(mask, image_size):
    return to_native_grid(mask_to_model_grid(mask, image_size), mask.shape) >= 0.5


# Intensities


def test_slice_normalization_is_the_z_score_of_each_slice(volume):
    expected = (volume - volume.mean((0, 1))) / volume.std((0, 1))
    np.testing.assert_allclose(to_model_grid(volume, 32, "slice"), expected.T, **HALF)


def test_volume_normalization_is_the_z_score_of_all_voxels(volume):
    volume *= [1, 2, 3, 4]
    expected = (volume - volume.mean()) / volume.std()
    np.testing.assert_allclose(to_model_grid(volume, 32, "volume"), expected.T, **HALF)


@pytest.mark.parametrize("normalization", ["slice", "volume"])
def test_the_unit_of_the_intensities_does_not_matter(volume, normalization):
    np.testing.assert_allclose(
        to_model_grid(volume * 1e-3 - 7, 48, normalization), to_model_grid(volume, 48, normalization), **HALF
    )


@pytest.mark.parametrize("normalization", ["slice", "volume"])
def test_a_volume_may_lie_in_memory_in_any_order(volume, normalization):
    expected = to_model_grid(volume, 48, normalization)
    for other in (np.asfortranarray(volume), np.repeat(volume, 2, axis=1)[:, ::2], volume[::-1].copy()[::-1]):
        assert np.array_equal(to_model_grid(other, 48, normalization), expected)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e6])
def test_a_constant_slice_becomes_zero(volume, value):
    volume[:, :, 1] = value
    out = to_model_grid(volume, 48, "slice")
    assert not out[1].any() and out[0].any()


def test_a_slice_that_is_constant_but_for_rounding_becomes_zero(volume):
    volume[:, ::2, 1], volume[:, 1::2, 1] = 0.1, 0.10000004
    assert not to_model_grid(volume, 32, "slice")[1].any()


def test_a_slice_with_one_bright_pixel_is_not_taken_for_constant(volume):
    volume[:, :, 1] = 1e6
    volume[3, 4, 1] = 1e6 + 100
    assert to_model_grid(volume, 32, "slice")[1].max() == pytest.approx(32, rel=0.01)  # sqrt(32 * 32)


def test_the_model_grid_is_square_half_precision_slices_first_rows_along_y(volume):
    volume[:] = np.arange(32)[:, None, None]  # grows along X
    out = to_model_grid(volume[:, :20], 64, "slice")
    assert out.shape == (4, 64, 64) and out.dtype == np.float16
    assert (np.diff(out, axis=2) >= 0).all() and not np.diff(out, axis=1).any()


def test_enlarging_is_bilinear_between_pixel_centres(volume):
    z = (volume - volume.mean((0, 1))) / volume.std((0, 1))
    expected = resize(z[:, :24], (80, 80, 4), order=1, mode="edge", anti_aliasing=False)
    z_of_part = to_model_grid(volume[:, :24], 80, "slice")
    # resizing commutes with the shift and scale of the part's own z-score
    for ours, theirs in zip(z_of_part.astype(np.float32), expected.T, strict=True):
        slope, intercept = np.polyfit(theirs.ravel(), ours.ravel(), 1)
        np.testing.assert_allclose(ours, slope * theirs + intercept, **HALF)


def test_shrinking_averages_what_a_pixel_covers(volume):
    volume = np.tile(volume, (3, 2, 1))
    z = (volume - volume.mean((0, 1))) / volume.std((0, 1))
    np.testing.assert_allclose(to_model_grid(volume, 32, "slice"), block_reduce(z, (3, 2, 1), np.mean).T, **HALF)


def test_a_fine_pattern_averages_out_along_the_axis_that_shrinks_though_the_other_grows(volume):
    stripes = np.tile(np.arange(256)[:, None, None] % 2, (1, 24, 3)).astype(np.float32)
    assert np.abs(to_model_grid(stripes, 64, "slice")).max() < 0.1


# Masks, there and back


@pytest.mark.parametrize("lesion", ["one voxel", "scattered voxels", "blobs"])
@pytest.mark.parametrize(
    ("shape", "image_size"),
    [((112, 112), 112), ((112, 112), 128), ((127, 127), 128), ((111, 97), 128), ((85, 128), 128), ((112, 112), 160),
     ((256, 256), 384), ((192, 191), 384), ((113, 87), 384), ((16, 37), 384)],
)  # fmt: skip
def test_a_mask_comes_home_exactly_from_a_model_grid_at_least_as_fine(shape, image_size, lesion):
    rng = np.random.default_rng(0)
    mask = np.zeros((*shape, 3), bool)
    if lesion == "one voxel":
        mask[shape[0] // 2, shape[1] // 3, 1] = True
    elif lesion == "scattered voxels":
        mask = rng.random(mask.shape) < 0.3
    else:
        for x, y, r in rng.uniform((0.2, 0.2, 2), (0.8, 0.8, 8), (6, 3)):
            i, j = np.ogrid[: shape[0], : shape[1]]
            mask[:, :, 1] |= (i - x * shape[0]) ** 2 + (j - y * shape[1]) ** 2 < r**2
    assert np.array_equal(home_again(mask, image_size), mask)


@pytest.mark.parametrize(("shape", "image_size"), [((256, 256), 224), ((257, 131), 112), ((512, 100), 256)])
def test_a_mask_comes_home_up_to_rounding_from_a_coarser_model_grid(shape, image_size):
    i, j, _ = np.ogrid[: shape[0], : shape[1], :2]
    mask = np.broadcast_to((i / shape[0] - 0.4) ** 2 + (j / shape[1] - 0.6) ** 2 < 0.02, (*shape, 2))
    assert dice(home_again(mask, image_size), mask) > 0.95


def test_a_lesion_lies_on_the_model_grid_where_it_lies_in_the_scan():
    mask = np.zeros((32, 16, 3), np.uint8)
    mask[8:16, 4:6, 2] = 1
    expected = np.zeros((3, 48, 48), np.uint8)
    expected[2, 12:18, 12:24] = 1  # rows are Y, columns X
    out = mask_to_model_grid(mask, 48)
    assert out.dtype == np.uint8 and np.array_equal(out, expected)


def test_a_larger_pixel_is_lesion_from_half_its_area_on():
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[0, :2, 0] = 1  # two of the four voxels under the first pixel
    mask[2, 0, 0] = 1  # one of four under another
    out = mask_to_model_grid(mask, 32)
    assert out[0, 0, 0] == 1 and out.sum() == 1


def test_a_mask_meets_its_image_on_the_model_grid():
    mask = np.zeros((50, 70, 3), np.float32)
    mask[20:31, 40:46, 1] = 1
    image, lesion = to_model_grid(mask, 96, "slice")[1].astype(np.float32), mask_to_model_grid(mask, 96)[1]
    assert dice(image > (image.min() + image.max()) / 2, lesion.astype(bool)) > 0.95


AFFINES = {
    "RAS": np.eye(3),
    "LAS": np.diag([-1, 1, 1]),
    "LPI": np.diag([-1, -1, -1]),
    "slices stored first": np.eye(3)[[2, 0, 1]],
    "sagittal, flipped": np.diag([1, -1, 1]) @ np.eye(3)[[1, 2, 0]],
    "oblique": Rotation.from_euler("xyz", [17, -12, 25], degrees=True).as_matrix(),
    "oblique LAS": Rotation.from_euler("xyz", [-9, 20, 5], degrees=True).as_matrix() @ np.diag([-1, 1, 1]),
}


@pytest.mark.parametrize("trailing", [(), (1,)], ids=["3-D", "trailing axis"])
@pytest.mark.parametrize("zooms", [(2, 2, 2), (0.9, 1.3, 5)], ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("axes", AFFINES)
def test_a_mask_comes_home_to_the_very_file_it_came_from(tmp_path, axes, zooms, trailing):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = AFFINES[axes] @ np.diag(zooms), (-80, 33, 12)
    stored = (np.random.default_rng(0).random((31, 27, 22, *trailing)) < 0.2).astype(np.uint8)
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "mask.nii.gz")

    mask, geometry = read(tmp_path / "mask.nii.gz")
    assert np.array_equal(geometry.native(home_again(mask, 32)), stored)


def test_probabilities_keep_their_place_on_a_finer_and_on_a_coarser_native_grid():
    along_x = np.broadcast_to((np.arange(64) + 0.5) / 64, (3, 64, 64))  # columns are X
    for n in (20, 64, 150):
        expected = (np.arange(n) + 0.5) / n
        out = to_native_grid(along_x, (n, 30, 3))
        assert out.shape == (n, 30, 3) and out.dtype == np.float32
        np.testing.assert_allclose(out, np.broadcast_to(expected[:, None, None], out.shape), atol=0.5 / 64 + 1e-6)


def test_probabilities_are_interpolated_on_a_finer_native_grid():
    along_x = np.broadcast_to((np.arange(64) + 0.5) / 64, (1, 64, 64))
    inside = to_native_grid(along_x, (150, 30, 1))[2:-2, 0, 0]
    np.testing.assert_allclose(inside, (np.arange(150)[2:-2] + 0.5) / 150, atol=1e-5)


# Neighbours


def test_neighbours_are_the_slice_before_and_the_slice_after():
    assert neighbours(None, 4)[1:3].tolist() == [[0, 1, 2], [1, 2, 3]]


def test_the_edge_slice_stands_in_at_both_ends():
    assert neighbours(None, 3)[[0, 2]].tolist() == [[0, 0, 1], [1, 2, 2]]


def test_no_neighbour_is_taken_across_a_gap_in_the_numbering():
    assert neighbours([10, 11, 14, 15, 16], 5).tolist() == [[0, 0, 1], [0, 1, 1], [2, 2, 3], [2, 3, 4], [3, 4, 4]]


def test_a_slice_between_two_gaps_stands_alone():
    assert neighbours([1, 3, 5], 3).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_numbering_may_start_anywhere():
    for start in (0, 1, 2, 100):
        assert np.array_equal(neighbours(list(range(start, start + 6)), 6), neighbours(None, 6))


def test_a_second_channel_has_its_slices_after_those_of_the_first():
    one, two = neighbours([1, 2, 5], 3), neighbours([1, 2, 5], 3, channels=2)
    assert two.shape == (3, 6) and np.array_equal(two[:, :3], one) and np.array_equal(two[:, 3:], one + 3)


# ADC


def test_adc_is_scaled_the_same_in_every_scan_and_bounded_by_free_water():
    adc = np.zeros((32, 32, 3), np.float32)
    adc[:8], adc[8:16], adc[16:24], adc[24:] = 0.8, 0.4, 3.0, 50
    image = adc_to_model_grid(adc, 32)[0]
    np.testing.assert_allclose(image[0, [0, 8, 16, 24]].astype(float), [0, -1, 5.5, 6.75], atol=0.01)


def test_where_no_adc_was_measured_it_counts_as_healthy_and_in_tissue_the_scale_stays():
    adc = np.array([0.0, -0.3, 1e-6, 0.4, 0.8, 1.2], np.float32).reshape(3, 2, 1)
    np.testing.assert_allclose(scaled_adc(adc).ravel(), [0, 0, -2, -1, 0, 1], atol=1e-5)
    assert scaled_adc(adc).dtype == np.float32 and scaled_adc(adc).shape == (3, 2, 1)


def test_outside_the_head_adc_counts_as_healthy():
    adc = np.array([0.4, 0.4, 3.0, 3.0], np.float32).reshape(2, 2, 1)
    inside = np.array([True, False, True, False]).reshape(2, 2, 1)
    np.testing.assert_allclose(scaled_adc(adc, inside).ravel(), [-1, 0, 5.5, 0], atol=1e-5)


def test_adc_lies_on_the_model_grid_as_its_scan_does(volume):
    z = to_model_grid(volume, 48, "volume").astype(np.float32)
    as_adc = adc_to_model_grid(volume / volume.max(), 48).astype(np.float32)
    assert as_adc.shape == z.shape
    assert np.corrcoef(z.ravel(), as_adc.ravel())[0, 1] > 0.999
