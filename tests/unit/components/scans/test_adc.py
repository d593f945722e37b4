"""ADC maps: computed from b0 by the formula, and refused where they cannot be those of tissue."""

import numpy as np
import pytest

from components.scans.adc import from_b0, in_kept_unit
from components.scans.volumes import BadVolume, Geometry

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


@pytest.fixture
def scan(make_scan):
    """DWI at b = 1000 s/mm², ADC in 1e-3 mm²/s, the b0 that belongs to them, and their geometry."""
    dwi, adc, _ = make_scan()
    return dwi, adc, (dwi * np.exp(1000 * adc * 1e-3)).astype(np.float32), Geometry(dwi.shape, AFFINE)


def test_adc_from_b0_is_the_log_ratio_over_b(scan):
    dwi, adc, b0, geometry = scan
    np.testing.assert_allclose(from_b0(b0, geometry, dwi, geometry, 1000), adc, atol=1e-5)


def test_with_another_b_value_it_is_over_that(scan):
    dwi, adc, b0, geometry = scan
    np.testing.assert_allclose(from_b0(b0, geometry, dwi, geometry, 800), adc * 1.25, atol=1e-5)


def test_where_either_shows_nothing_adc_is_zero(scan):
    dwi, _, b0, geometry = scan
    b0[16, 12, 2], dwi[15, 12, 2], b0[14, 12, 2], b0[13, 12, 2] = 0, 0, -3, np.nan
    adc = from_b0(b0, geometry, dwi, geometry, 1000)
    assert [adc[x, 12, 2] for x in (16, 15, 14, 13)] == [0, 0, 0, 0] and np.isfinite(adc).all()


@pytest.mark.parametrize(("factor", "why"), [(1 / 3, "no positive values"), (1e12, "fit none of|as if it were in")])
def test_a_b0_of_another_scan_is_refused(scan, factor, why):
    dwi, _, b0, geometry = scan
    with pytest.raises(BadVolume, match=why):
        from_b0(b0 * np.float32(factor), geometry, dwi, geometry, 1000)


def test_a_map_on_another_grid_is_refused(scan):
    dwi, adc, b0, geometry = scan
    beside = Geometry(dwi.shape, AFFINE + np.eye(4, k=3) * 10)
    with pytest.raises(BadVolume, match=r"the b0 scan is up to 10\.0 mm off"):
        from_b0(b0, beside, dwi, geometry, 1000)
    with pytest.raises(BadVolume, match=r"the ADC map is up to 10\.0 mm off"):
        in_kept_unit(adc, beside, dwi, geometry)
