"""The measures of a scan do not depend on its units, and show whether it is in the range of the training scans."""

import numpy as np
import pytest

from components.model.out_of_range import REASONS, appearance, out_of_range

VOXEL_MM = (2.0, 2.2, 5.0)


@pytest.fixture
def scan(make_scan):
    return make_scan(0, (48, 40, 6))[0]


def test_geometry_is_in_millimetres(scan):
    here = appearance(scan, VOXEL_MM)
    assert (here["slices"], here["slice_mm"], here["pixel_mm"], here["field_mm"]) == (6, 5.0, 2.2, 96.0)


def test_without_voxel_sizes_there_are_slices_and_intensities_alone(scan):
    assert set(appearance(scan, VOXEL_MM)) - set(appearance(scan, None)) == {"slice_mm", "pixel_mm", "field_mm"}


def test_the_unit_of_intensity_does_not_matter(scan):
    assert appearance(scan * np.float32(1000), VOXEL_MM) == pytest.approx(appearance(scan, VOXEL_MM), rel=1e-3)


def test_every_number_has_its_words(scan):
    assert set(appearance(scan, VOXEL_MM)) == set(REASONS)


def test_noise_is_the_standard_deviation_of_white_noise_whatever_slope_lies_below():
    x, y, _ = np.meshgrid(np.arange(60), np.arange(60), np.arange(10), indexing="ij")
    slope = 100 + x + 0.5 * y
    noisy = slope + np.random.default_rng(0).normal(0, 3, slope.shape)
    median = float(np.median(noisy))
    assert appearance(noisy, None)["noise"] * median == pytest.approx(3, rel=0.05)
    assert appearance(slope, None)["noise"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("changed", "which"),
    [
        (lambda v: v + np.random.default_rng(0).normal(0, 30, v.shape) * (v > 0), "noise"),
        (lambda v: np.pad(v, ((40, 40), (40, 40), (0, 0))), "background"),
        (lambda v: np.where(v > 150, 8 * v, v), "bright"),
    ],
    ids=["noisier", "more air", "brighter lesion"],
)
def test_a_changed_scan_is_told_from_its_like(make_scan, changed, which):
    scans = [make_scan(seed, (48, 40, 6))[0] for seed in range(5)]
    rows = [appearance(s, None) for s in scans]
    seen = {name: [min(r[name] for r in rows), max(r[name] for r in rows)] for name in rows[0]}
    other = make_scan(9, (48, 40, 6))[0]
    assert out_of_range(appearance(other, None), seen) == []
    assert out_of_range(appearance(changed(other), None), {which: seen[which]}) != []


def test_what_is_unlike_is_said_with_its_value_and_the_range():
    assert out_of_range({"slice_mm": 6.5}, {"slice_mm": [1.0, 5.0]}) == [
        "slices 6.5 mm thick; training scans have 1.0 to 5.0 mm"
    ]


def test_a_quarter_of_the_range_or_a_tenth_of_the_value_beyond_is_still_like():
    assert out_of_range({"slice_mm": 5.9}, {"slice_mm": [1.0, 5.0]}) == []
    assert out_of_range({"slice_mm": 5.4}, {"slice_mm": [5.0, 5.0]}) == []
    assert out_of_range({"slice_mm": 5.6}, {"slice_mm": [5.0, 5.0]}) != []
    assert out_of_range({"slice_mm": 4.4}, {"slice_mm": [5.0, 5.0]}) != []


def test_of_what_differs_from_patient_to_patient_half_the_range_beyond_is_still_like():
    """The largest of a few patients is soon exceeded."""
    assert out_of_range({"bright": 2.45}, {"bright": [1.5, 2.1]}) != []
    assert out_of_range({"bright": 2.35}, {"bright": [1.5, 2.1]}) == []


def test_what_a_scan_lacks_is_not_held_against_it():
    assert out_of_range({"slices": 20}, {"slices": [18, 24], "slice_mm": [5, 5]}) == []


def test_a_number_that_is_none_is_unlike_all():
    assert len(out_of_range({"noise": float("nan")}, {"noise": [0.1, 0.2]})) == 1
