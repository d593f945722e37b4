"""The changes themselves: what is changed, what is left, and that the way home ends where the scan was."""

import gzip
import io

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.relations.changes import OF_ANY_FILE, OF_NIFTI, OF_NPY, Scan, relations
from tests.relations.measure import Row, dice
from tests.relations.phantoms import LAS_2X2X5_MM, phantom

TILTED = nib.affines.from_matvec(Rotation.from_euler("xyz", (12, -5, 8), degrees=True).as_matrix()) @ LAS_2X2X5_MM
PHANTOM, _, HEAD = phantom(seed=7)
AT = (30, 61, 8)
"""A voxel of the head, to be followed."""
SCANS = {False: Scan("phantom", PHANTOM.voxels, TILTED), True: Scan("phantom.npy", PHANTOM.voxels, None)}
EVERY = [pytest.param(npy, r, id=f"{'npy' if npy else 'nifti'}: {r.name}") for npy in SCANS for r in relations(npy)]
NAMED = {relation.name: relation.change for relation in OF_ANY_FILE + OF_NIFTI + OF_NPY}
STAYS = [p for p in EVERY if not p.values[0] and p.values[1].name not in ("mirrored", "rotated by 5 degrees")]


def content(changed) -> tuple[np.ndarray, np.ndarray | None]:
    """Voxels and affine of a changed file, as nibabel and NumPy read them."""
    if changed.file.lower().endswith(".npy"):
        return np.load(io.BytesIO(changed.content)), None
    packed = changed.content[:2] == b"\x1f\x8b"
    image = nib.Nifti1Image.from_bytes(gzip.decompress(changed.content) if packed else changed.content)
    return image.get_fdata(), image.affine


@pytest.mark.parametrize(("npy", "relation"), EVERY)
def test_the_way_home_ends_where_the_scan_was(npy, relation):
    scan = SCANS[npy]
    changed = relation.change(scan)
    home = changed.home(content(changed)[0])
    inside = scan.head
    alike = np.corrcoef(home[inside].astype(float), scan.voxels[inside].astype(float))[0, 1]
    assert home.shape == scan.voxels.shape
    assert alike > (1 - 1e-6 if relation.exact else 0.97)


@pytest.mark.parametrize(("npy", "relation"), STAYS)
def test_a_voxel_stays_at_its_millimetres(npy, relation):
    voxels = np.where(PHANTOM.head, 100, 0).astype(np.float32)
    voxels[AT] = 1000
    found, affine = content(relation.change(Scan("marked", voxels, TILTED)))
    brightest = np.argwhere(found == found.max())[:, :3].mean(0)
    here, there = (nib.affines.apply_affine(*pair) for pair in ((TILTED, AT), (affine, brightest)))
    assert np.linalg.norm(here - there) < (1e-3 if relation.exact else 1.5)


def shape_of(name: str, scan: Scan = PHANTOM) -> tuple:
    return content(NAMED[name](scan))[0].shape


def test_frames_have_the_size_that_their_names_say():
    assert PHANTOM.voxels.shape == (96, 112, 12)
    assert shape_of("padded by a sixth, all sides") == (96 + 2 * 16, 112 + 2 * 19, 12)
    assert shape_of("padded by a sixth, end of y") == (96, 112 + 19, 12)
    assert shape_of("padded by odd numbers, unevenly") == (96 + 11 + 3, 112 + 21, 12)
    assert shape_of("empty slices below and above") == (96, 112, 12 + 3 + 5)
    assert shape_of("resampled by 0.7") == (67, 78, 12)
    assert shape_of("axes PSR") == (112, 12, 96)
    assert shape_of("trailing axis of length one") == (96, 112, 12, 1)


def test_cropping_takes_air_and_leaves_the_head():
    cropped = NAMED["cropped, all sides"](PHANTOM)
    kept = cropped.home(np.ones(content(cropped)[0].shape, bool))
    assert kept[PHANTOM.head].all()
    assert kept.mean() < 0.9


def test_air_is_set_to_zero_and_the_head_left():
    voxels, _ = content(NAMED["air set to zero"](PHANTOM))
    assert (PHANTOM.voxels == 0).mean() < 0.01
    assert (voxels == 0).mean() > 0.2
    assert np.array_equal(voxels[PHANTOM.head], PHANTOM.voxels[PHANTOM.head])


def test_the_head_is_found_where_it_is():
    assert dice(PHANTOM.head, HEAD) > 0.97
    assert PHANTOM.not_air[HEAD].all()


def test_noise_is_one_percent_of_the_heads_median_and_the_same_each_time():
    (first, _), (second, _) = (content(NAMED["noise of 1 %"](PHANTOM)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.std(first - PHANTOM.voxels) == pytest.approx(0.01 * np.median(PHANTOM.voxels[PHANTOM.head]), rel=0.02)


@pytest.mark.parametrize(
    ("exact", "before", "after", "overlap", "holds"),
    [
        (True, 100.0, 101.9, 0.99, True),
        (True, 100.0, 102.1, 0.99, False),
        (True, 100.0, 97.9, 0.99, False),
        (True, 100.0, 100.0, 0.97, False),
        (True, 1.0, 1.09, 0.98, True),
        (True, 1.0, 1.11, 0.98, False),
        (True, 0.0, 0.0, 1.0, True),
        (True, 0.0, 0.2, 0.0, False),
        (False, 100.0, 114.0, 0.91, True),
        (False, 100.0, 116.0, 0.91, False),
        (False, 100.0, 100.0, 0.89, False),
    ],
)
def test_tolerances(exact, before, after, overlap, holds):
    assert Row("scan", "relation", exact, before, after, overlap).holds is holds


def test_a_refused_scan_breaks_a_relation():
    assert not Row("scan", "relation", True, 0.0, 0.0, 1.0, refused="too large").holds


def test_dice_by_hand():
    one, other = np.array([1, 1, 1, 0]) > 0, np.array([0, 1, 1, 0]) > 0
    assert dice(one, other) == pytest.approx(0.8)
    assert dice(one & False, other & False) == 1
    assert dice(one, one & False) == 0
