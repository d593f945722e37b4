"""ADC maps, (X, Y, S) in 1e-3 mm²/s: converted from their unit, or computed from the scan without diffusion."""

import numpy as np

from components.scans.geometry import BadVolume, Geometry, require_same_grid

UNITS = {"mm2/s": 1e3, "1e-3 mm2/s": 1.0, "1e-6 mm2/s": 1e-3}
"""Factor from each usual unit to 1e-3 mm²/s, the unit of the pipeline."""
KEPT = "1e-3 mm2/s"
TYPICAL = 0.9
"""Between grey and white matter (0.7-0.8) and CSF (3.0), in 1e-3 mm²/s."""


def in_kept_unit(
    adc: np.ndarray, adc_geometry: Geometry, dwi: np.ndarray, geometry: Geometry
) -> tuple[np.ndarray, str]:
    """Return the map in 1e-3 mm²/s, and the unit of the file.

    Raises:
        BadVolume: its grid is not that of its DWI, it holds NaN or infinite values, or its values fit no usual unit.
    """
    require_same_grid("ADC map", adc, adc_geometry, dwi, geometry)
    if not np.isfinite(adc).all():
        raise BadVolume("the ADC map holds values that are NaN or infinite")
    unit = adc_unit(adc, dwi)
    with np.errstate(over="ignore"):
        adc = adc * np.float32(UNITS[unit])
    if not np.isfinite(adc).all():
        raise BadVolume(f"the ADC map holds values that are NaN or infinite after the conversion to {KEPT}")
    return adc, unit


def from_b0(b0: np.ndarray, b0_geometry: Geometry, dwi: np.ndarray, geometry: Geometry, b_value: float) -> np.ndarray:
    """Return ln(S0 / S) / b, in 1e-3 mm²/s, for a DWI S with b = `b_value` s/mm²; 0 where S0 or S is not positive.

    The b0 S0 was taken without diffusion weighting (Stejskal and Tanner 1965).

    Raises:
        BadVolume: its grid is not that of its DWI, or the result is not the ADC of tissue.
    """
    require_same_grid("b0 scan", b0, b0_geometry, dwi, geometry)
    shown = (b0 > 0) & (dwi > 0) & np.isfinite(b0)
    adc = np.zeros_like(dwi)
    adc[shown] = (np.log(b0[shown]) - np.log(dwi[shown])) * np.float32(1e3 / b_value)  # their ratio may overflow
    if (unit := adc_unit(adc, dwi)) != KEPT:
        raise BadVolume(
            f"with b = {b_value:g} s/mm² the ADC comes out as if it were in {unit}: "
            "are b0 and DWI one scan, and is b right?"
        )
    return adc


def adc_unit(adc: np.ndarray, dwi: np.ndarray) -> str:
    """Return the unit of an ADC map (X, Y, S): the one that brings brain tissue nearest to 0.9e-3 mm²/s.

    Tissue is where the DWI is brighter than its mean and the ADC is positive.

    Raises:
        BadVolume: no usual unit makes the values those of tissue.
    """
    tissue = adc[(dwi > dwi.mean()) & (adc > 0)]
    if tissue.size < 100:
        raise BadVolume("the ADC map has no positive values in the brain")
    median = float(np.median(tissue))
    off = {unit: abs(np.log10(median * factor / TYPICAL)) for unit, factor in UNITS.items()}
    unit = min(off, key=lambda unit: off[unit])
    if off[unit] > 1:
        raise BadVolume(f"ADC values (median {median:.3g} in the brain) fit none of {', '.join(UNITS)}")
    return unit
