import numpy as np
import pytest
from scipy import ndimage

from components.scans.head import find_head

MM = (2.0, 2.0, 5.0)


def ball(shape=(96, 100, 12), centre=(46, 52, 6), radii=(34, 42, 5)) -> np.ndarray:
    """True inside an ellipsoid, as a head lies in a scan."""
    at = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return sum(((x - c) / r) ** 2 for x, c, r in zip(at, centre, radii, strict=True)) <= 1


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    rng = np.random.default_rng(0)
    head = ball()
    return (np.where(head, rng.normal(100, 8, head.shape), np.abs(rng.normal(0, 4, head.shape)))).astype(np.float32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_the_head_is_what_is_bright(scan):
    head = find_head(scan, MM)
    assert head.found and overlap(head.mask, ball()) > 0.97


def test_a_dark_ventricle_is_part_of_the_head(scan):
    dark = ball(radii=(8, 10, 3))
    head = find_head(np.where(dark, 5, scan).astype(np.float32), MM)
    assert head.mask[dark].all()


def test_a_thin_scalp_is_no_part_of_it(scan):
    scalp = ball(radii=(42, 50, 5.9)) & ~ball(radii=(40, 48, 5.9))
    assert overlap(find_head(np.where(scalp, 70, scan).astype(np.float32), MM).mask, find_head(scan, MM).mask) > 0.99


@pytest.mark.parametrize("factor", [2, 3])
def test_a_large_bright_lesion_is_not_taken_for_the_head(scan, factor):
    lesion = ball(centre=(30, 52, 6), radii=(17, 30, 4)) & ball()
    assert 0.2 < lesion.sum() / ball().sum() < 0.3
    assert overlap(find_head(np.where(lesion, factor * scan, scan), MM).mask, find_head(scan, MM).mask) > 0.97


def test_a_smaller_bright_thing_beside_it_is_no_part_of_it(scan):
    beside = scan.copy()
    beside[2:10, 2:12, 2:5] = 400
    assert not find_head(beside, MM).mask[:12, :14].any()


@pytest.mark.parametrize("sides", [((16, 0), (0, 0), (0, 0)), ((9, 31), (17, 5), (0, 0)), ((0, 0), (0, 0), (3, 2))])
def test_black_voxels_around_the_scan_change_nothing(scan, sides):
    padded = find_head(np.pad(scan, sides), MM).mask
    inner = tuple(slice(before, n - after) for (before, after), n in zip(sides, padded.shape, strict=True))
    assert overlap(padded[inner], find_head(scan, MM).mask) > 0.999
    assert padded.sum() == padded[inner].sum()


def test_air_that_is_cut_off_or_set_to_zero_changes_nothing(scan):
    head = find_head(scan, MM).mask
    assert overlap(find_head(scan[8:88, 6:98], MM).mask, head[8:88, 6:98]) > 0.999
    assert overlap(find_head(np.where(ndimage.binary_dilation(head, iterations=5), scan, 0), MM).mask, head) > 0.995


@pytest.mark.parametrize(("factor", "offset"), [(0.01, 0), (37, 0), (1, 500), (3, -40)])
def test_the_unit_of_intensity_changes_nothing(scan, factor, offset):
    assert overlap(find_head(scan * factor + offset, MM).mask, find_head(scan, MM).mask) > 0.999


@pytest.mark.parametrize("nothing", [np.full((32, 32, 4), 7.0), np.random.default_rng(0).normal(50, 5, (64, 64, 8))])
def test_without_a_head_the_whole_volume_is_taken_and_it_says_so(nothing):
    head = find_head(nothing.astype(np.float32), MM)
    assert not head.found and head.mask.all()


def test_quartiles_are_those_of_tissue_and_not_of_its_noise(scan):
    head, noise = find_head(scan, MM), np.random.default_rng(1).normal(0, 8, scan.shape).astype(np.float32)
    quiet, noisy = head.smooth_quartiles(scan), head.smooth_quartiles(scan + noise)
    assert quiet[1] == pytest.approx(100, abs=1) and noisy[1] == pytest.approx(100, abs=1)
    spread = np.subtract(*np.percentile((scan + noise)[head.mask], (75, 25)))
    assert noisy[2] - noisy[0] < 0.6 * spread
