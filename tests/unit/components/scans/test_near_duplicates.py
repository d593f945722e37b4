"""A copy of a scan is known again, however it was exported; another patient's scan is not taken for it."""

import itertools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from scipy import ndimage

from components.scans import near_duplicates
from components.scans.near_duplicates import LIMIT, alike, portrait
from components.scans.volumes import read

FLIPS = [
    (slice(None, None, x), slice(None, None, y), slice(None, None, z))
    for x, y, z in itertools.product((1, -1), repeat=3)
]
ORIENTATIONS = [(order, flip) for order in itertools.permutations(range(3)) for flip in FLIPS]


def demo(index: int) -> np.ndarray:
    """Of a set of its own: no two of them share a seed."""
    from pipelines.demo.scans import simulate_scan

    return simulate_scan(index, 1000 + index).dwi.astype(np.float32)


def portrait_of_demo(index: int) -> str:
    return portrait(demo(index))


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    """Three scanners: 5 mm and 2 mm slices, skull-stripped or not."""
    return [demo(index) for index in range(6)]


@pytest.fixture(scope="module")
def portraits(scans) -> list[str]:
    return [portrait(scan) for scan in scans]


def turned(scan: np.ndarray, which: int) -> np.ndarray:
    order, flip = ORIENTATIONS[which % 48]
    return scan.transpose(order)[flip]


def noisy(scan: np.ndarray) -> np.ndarray:
    return scan + np.random.default_rng(0).normal(0, 0.04 * np.median(scan[scan > 0.1 * scan.max()]), scan.shape)


def resampled(scan: np.ndarray, *factors: float) -> np.ndarray:
    return ndimage.zoom(scan, factors, order=1, mode="nearest", grid_mode=True)


COPIES = {
    "the same": lambda scan: scan,
    "scaled": lambda scan: np.round(3.7 * scan - 20),
    "as uint8": lambda scan: np.clip(scan / np.percentile(scan, 99.9) * 255, 0, 255).astype(np.uint8),
    "clipped": lambda scan: np.minimum(scan, np.percentile(scan, 99)),
    "gamma": lambda scan: (scan / scan.max()) ** 0.8,
    "half as fine": lambda scan: resampled(scan, 0.5, 0.5, 0.5),
    "twice as fine": lambda scan: resampled(scan, 2, 2, 2),
    "of other slices": lambda scan: resampled(scan, 0.8, 0.8, 1.7),
    "padded": lambda scan: np.pad(scan, ((9, 20), (0, 15), (3, 0))),
    "without two slices": lambda scan: scan[:, :, 1:-1],
    "noisy": noisy,
    "smoothed": lambda scan: ndimage.gaussian_filter(scan, (1, 1, 0.5)),
    "padded, scaled, resampled, noisy": lambda scan: noisy(resampled(2 * np.pad(scan, 5), 0.7, 0.7, 1.3)),
}


def likeness_of(original: str, copy: np.ndarray, monkeypatch) -> float:
    monkeypatch.setattr(near_duplicates, "LIMIT", -1)
    ((_, _, value),) = alike([original, portrait(copy)])
    return value


@pytest.mark.sampled(12)
@pytest.mark.parametrize("which", range(48))
def test_in_every_orientation_a_scan_is_itself(scans, portraits, which, monkeypatch):
    number = which % len(scans)
    assert likeness_of(portraits[number], turned(scans[number], which), monkeypatch) > 0.999


@pytest.mark.sampled(6)
@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_re_oriented_copy_is_found(scans, portraits, copied, number, monkeypatch):
    copy = turned(copied(scans[number]), 7 * number + 1)
    assert likeness_of(portraits[number], copy, monkeypatch) >= LIMIT


def test_other_patients_are_not_taken_for_copies(portraits):
    assert alike(portraits) == []


def test_the_pairs_are_named_by_their_places(scans, portraits):
    ((one, other, value),) = alike([portraits[0], None, portraits[1], portrait(turned(scans[0], 5))])
    assert (one, other) == (0, 3) and value > 0.999


def test_many_are_compared_in_blocks_as_if_at_once(scans, portraits, monkeypatch):
    twice = [*portraits, *[portrait(turned(scan, 3)) for scan in scans]]
    at_once = alike(twice)
    monkeypatch.setattr(near_duplicates, "BLOCK", 5)
    assert [pair[:2] for pair in alike(twice)] == [pair[:2] for pair in at_once] == [(i, i + 6) for i in range(6)]


def test_a_few_slices_are_too_little_to_compare(scans):
    assert portrait(scans[0][:, :, 10:17]) is None
    assert portrait(scans[0][:, :, 10:18]) is not None


def test_a_scan_that_shows_nothing_but_a_few_voxels_is_not_compared():
    scan = np.zeros((32, 32, 16), np.float32)
    scan[3, 4, 5] = 1
    assert portrait(scan) is None


@pytest.mark.slow
def test_real_patients_are_told_apart_and_their_copies_found(real_scans, monkeypatch):
    paths = sorted((real_scans / "isles-layout").glob("sub-*/*/dwi/*_dwi.nii.gz"))
    real = [read(path)[0] for path in paths]
    assert alike([portrait(scan) for scan in real]) == []
    for number, scan in enumerate(real):
        for name, copied in COPIES.items():
            if name != "gamma":  # with it the one large lesion outshines the head
                copy = turned(copied(scan), 5 * number + 2)
                assert likeness_of(portrait(scan), copy, monkeypatch) >= LIMIT, name


@pytest.mark.slow
def test_two_hundred_distinct_demo_scans_raise_no_alarm():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        portraits = list(pool.map(portrait_of_demo, range(200), chunksize=10))
    assert alike(portraits) == []
