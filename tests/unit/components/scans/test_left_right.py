"""The left-right axis of a head that is its own mirror image there and nowhere else."""

import numpy as np
import pytest
from scipy import ndimage

from components.scans.head import find_head
from components.scans.left_right import left_right_axis
from components.scans.volumes import read


def egg(length: float = 40, width: float = 30, narrower: float = 0.25) -> np.ndarray:
    """A head (X, Y, S): its outline narrows towards one end of Y, as a skull does towards the forehead."""
    x, y, s = np.meshgrid(np.arange(100) - 47, np.arange(110) - 52, np.arange(10) - 4.5, indexing="ij")
    half = width * (1 - narrower * y / length)
    return (x / half) ** 2 + (y / length) ** 2 + (s / 6) ** 2 <= 1


def swapped(mask: np.ndarray) -> np.ndarray:
    return mask.swapaxes(0, 1)


@pytest.mark.parametrize(
    "change", [lambda m: m, lambda m: m[::-1, ::-1], lambda m: m[:, :, ::-1], lambda m: m[:, :, 3:6]]
)
def test_a_head_is_symmetric_left_to_right(change):
    head = change(egg())
    assert left_right_axis(head) == 0 and left_right_axis(swapped(head)) == 1


def test_of_a_head_as_wide_as_long_the_mirror_image_tells():
    head = egg(length=40, width=40)
    assert left_right_axis(head) == 0 and left_right_axis(swapped(head)) == 1


def test_of_an_ellipse_which_is_symmetric_both_ways_the_length_tells():
    head = egg(narrower=0)
    assert left_right_axis(head) == 0 and left_right_axis(swapped(head)) == 1


def test_a_dent_on_one_side_does_not_matter():
    head = egg()
    head[:25, 45:65] = False
    assert left_right_axis(head) == 0 and left_right_axis(swapped(head)) == 1


@pytest.mark.parametrize("degrees", [-10, 10])
def test_a_head_may_be_tilted(degrees):
    head = ndimage.rotate(egg().astype(np.uint8), degrees, order=0, reshape=False) > 0
    assert left_right_axis(head) == 0 and left_right_axis(swapped(head)) == 1


@pytest.mark.parametrize("mask", [np.zeros((30, 40, 5), bool), np.ones((30, 40, 5), bool), np.ones((40, 30, 5), bool)])
def test_without_a_head_it_is_the_first_axis(mask):
    assert left_right_axis(mask) == 0


@pytest.fixture(scope="module")
def real(real_scans):
    """Name to every third slice (X, Y, S) of every real scan, X being left-right."""
    paths = [*real_scans.rglob("*_dwi.nii.gz"), *real_scans.glob("npy-layout/images/Patient_???.npy")]
    return {path.name: np.ascontiguousarray(read(path)[0][:, :, ::3]) for path in paths}


def turned(volume: np.ndarray) -> np.ndarray:
    return ndimage.rotate(volume, 10, order=1, reshape=False)


def with_a_large_lesion(volume: np.ndarray) -> np.ndarray:
    """Twice as bright in the middle third of one hemisphere, about a quarter of the head."""
    head = find_head(volume, None)
    x, y, _ = head.box
    third = (y.stop - y.start) // 3
    lesion = np.zeros(volume.shape, bool)
    lesion[x.start : (x.start + x.stop) // 2, y.start + third : y.stop - third] = True
    return np.where(lesion & head.mask, 2 * volume, volume)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("change", [lambda v: v, turned, with_a_large_lesion], ids=["as it is", "turned", "a lesion"])
def test_of_every_real_scan_the_axis_is_found(real, change):
    found = {name: left_right_axis(find_head(change(volume), None).mask) for name, volume in real.items()}
    assert len(found) == 8 and set(found.values()) == {0}
