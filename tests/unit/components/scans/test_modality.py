"""An ADC map or a b0 image that lies under a DWI's name; and no DWI that is taken for one."""

import numpy as np
import pytest

from components.scans.adc import in_kept_unit
from components.scans.head import find_head
from components.scans.modality import other_modality, require_dwi
from components.scans.volumes import BadVolume, read
from pipelines.demo.scans import simulate_scan

MM = (2.0, 2.0, 5.0)
AIR = np.random.default_rng(1)


def told(volume, voxel_mm=MM) -> str:
    volume = np.asarray(volume, np.float32)
    return other_modality(volume, voxel_mm, find_head(volume, voxel_mm))


PATIENTS = [
    pytest.param(0, id="noisy air"), pytest.param(3, id="no air, thin slices"),
    pytest.param(8, id="no air", marks=pytest.mark.slow), pytest.param(4, id="thin slices", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.fixture(scope="module", params=PATIENTS)
def demo(request):
    """A DWI, its ADC map in 1e-3 mm²/s, and its voxel sizes."""
    scan = simulate_scan(request.param, 42)
    return scan.dwi, scan.adc_mm2_s * 1e3, tuple(np.linalg.norm(scan.affine[:3, :3], axis=0))


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_an_adc_map_of_a_demo_scan_is_told_in_any_unit_and_its_dwi_is_not(demo, scale):
    dwi, adc, mm = demo
    assert told(dwi, mm) == "" and "ADC map" in told(adc * scale, mm)


def test_a_dwi_of_a_low_b_value_is_not_taken_for_another(demo):
    dwi, adc, mm = demo
    assert told(dwi * np.exp(0.5 * adc), mm) == ""


@pytest.mark.parametrize("gamma", [0.6, 1.6])
def test_a_gamma_makes_no_other_modality_of_a_dwi(demo, gamma):
    dwi, _, mm = demo
    assert told(np.maximum(dwi, 0) ** gamma, mm) == ""


@pytest.mark.parametrize(
    ("fluid", "lesion"), [(2.4, 1), (3.75, 1), (3.75, 0.5)], ids=["b0", "ADC", "ADC with a lesion"]
)
def test_what_has_fluid_brightest_is_told(make_head, fluid, lesion):
    assert "fluid seems brightest" in told(make_head(fluid, 1, lesion))


@pytest.mark.parametrize("fluid", [0.2, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("lesion", [1, 2, 4])
def test_a_dwi_is_not_told_however_large_and_bright_its_lesion(make_head, fluid, lesion):
    air = np.abs(AIR.normal(0, 0.05, (96, 96, 9)))
    assert told(make_head(fluid, 1, lesion, air)) == "" and told(make_head(fluid, 1, lesion), None) == ""


def test_an_adc_map_is_told_by_its_air(make_head):
    assert "the air is" in told(make_head(3, 0.8, air=AIR.normal(0.3, 0.9, (96, 96, 9))))


@pytest.mark.parametrize("volume", [
    np.random.default_rng(0).normal(500, 100, (96, 96, 5)), np.zeros((96, 96, 5)), np.ones((16, 16, 3)),
    np.random.default_rng(0).normal(0, 1, (16, 50, 3)),
], ids=["noise", "nothing", "ones", "a strip"])  # fmt: skip
def test_what_shows_no_head_is_not_told(volume):
    assert told(volume) == told(volume, None) == ""


def test_the_refusal_says_what_was_seen_and_how_to_insist(make_head):
    volume = make_head(3.75, 1)
    with pytest.raises(BadVolume, match=r"looks like an ADC map or a b0 image, not a DWI.*\. Insist so\."):
        require_dwi(volume, MM, find_head(volume, MM), "Insist so.")


@pytest.mark.slow
def test_of_real_scans_the_adc_maps_are_told_and_the_dwi_are_not(real_scans):
    for path in sorted((real_scans / "isles-layout").glob("sub-*/*/dwi/*_dwi.nii.gz")):
        dwi, geometry = read(path)
        assert told(dwi, geometry.voxel_mm) == "", path.name
        adc_path = path.with_name(path.name.replace("_dwi", "_adc"))
        if adc_path.exists():
            stored = read(adc_path)
            assert told(stored[0], geometry.voxel_mm), adc_path.name
            adc, _ = in_kept_unit(*stored, dwi, geometry)
            assert told(dwi * np.exp(0.5 * adc), geometry.voxel_mm) == "", path.name
        if (b0 := path.with_name(path.name.replace("_dwi", "_b0"))).exists():
            assert told(read(b0)[0], geometry.voxel_mm), b0.name
