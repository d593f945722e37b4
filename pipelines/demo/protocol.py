"""Ranges from which synthetic scans are drawn: protocols, scanners, patients and lesions."""

from dataclasses import dataclass

Range = tuple[float, float]
"""Lowest and highest value; a value is drawn evenly between them."""


@dataclass(frozen=True)
class Protocol:
    """The ranges that a site's scans are drawn from. Lengths in mm, b in s/mm², ADC in 1e-3 mm²/s."""

    site: str

    acquired_mm: Range = (1.6, 2.3)
    """Side of an acquired pixel."""
    zero_fill: Range = (1.0, 2.0)
    """Interpolation in the plane: half of the scans have none, the others this factor."""
    field_mm: Range = (205, 256)
    slice_mm: Range = (2.0, 7.0)
    coverage_mm: Range = (125, 155)
    """From the lowest to the highest slice."""
    b: Range = (800, 1500)
    sharpness: Range = (0.45, 1.15)
    """Remaining share of the highest acquired frequency; above 1 it is enhanced."""
    noise: Range = (0.025, 0.12)
    """Over the brightness of white matter, in a pixel as acquired."""
    bias: Range = (0.0, 0.3)
    ghost: Range = (0.0, 0.05)
    """Half of the scans have none."""
    distortion_mm: Range = (1.0, 15.0)
    """Shift along the phase-encoding axis at the base of the skull."""
    eddy_mm: Range = (-1.2, 1.2)
    """Shift of the image at b against that at b = 0, which the ADC map shows at every edge."""
    skull_stripped: float = 0.5
    """Share of scans."""
    masked_air: float = 0.3
    """Share of the others whose air is 0."""

    head_scale: Range = (0.82, 0.96)
    """The head over the template's, which is larger than most."""
    tilt_degrees: Range = (-12, 22)
    warp_mm: Range = (1.0, 2.6)
    atrophy: Range = (0.15, 1.1)
    ventricles_mm: Range = (-0.3, 5.0)
    """How much further than the template's they reach."""
    gray_over_white: Range = (1.1, 1.55)
    """Brightness of cortex over that of white matter."""
    texture: Range = (0.015, 0.06)
    white_adc: Range = (0.66, 0.80)
    gray_adc: Range = (0.72, 0.90)
    adc_variation: Range = (0.01, 0.06)
    """Of healthy tissue, from place to place, over its mean."""
    fossa_adc: Range = (0.80, 1.0)
    """Of cerebellum and brainstem, over that of the hemispheres. Published means are lower by up to a fifth."""
    thalamus_adc: Range = (0.85, 1.0)
    fossa_gain: Range = (0.9, 1.15)
    """Brightness of cerebellum and brainstem: a coil is nearer to them."""

    lesion_adc: Range = (0.3, 0.7)
    lesion_contrast: Range = (1.25, 3.1)
    """Over healthy tissue; as far as b and a longer T2 give it."""
    lesion_edge_mm: Range = (1.0, 5.0)

    old_infarcts: float = 0.3
    """Share of patients with an old infarct."""
    shine_through: float = 0.6
    choroid_plexus: float = 0.4
    bright_tracts: float = 0.6
    bright_cortex: float = 0.5


TRAINING = Protocol("synthetic training")
"""Wide on purpose: wider than the real scans that are known."""

HELD_OUT = Protocol(
    "synthetic held-out",
    acquired_mm=(1.3, 1.9),
    field_mm=(220, 270),
    slice_mm=(3.0, 6.0),
    b=(900, 1200),
    sharpness=(0.3, 0.7),
    noise=(0.04, 0.13),
    bias=(0.15, 0.4),
    ghost=(0.02, 0.08),
    distortion_mm=(6.0, 17.0),
    skull_stripped=0.3,
    head_scale=(0.8, 0.9),
    tilt_degrees=(5, 28),
    atrophy=(0.5, 1.4),
    ventricles_mm=(0.5, 6.5),
    gray_over_white=(1.2, 1.6),
    texture=(0.03, 0.08),
    white_adc=(0.62, 0.74),
    gray_adc=(0.70, 0.84),
    fossa_gain=(1.0, 1.2),
    lesion_adc=(0.35, 0.73),
    lesion_contrast=(1.25, 2.6),
    old_infarcts=0.4,
)
"""For validation: another site, whose ranges are shifted against those of `TRAINING` and partly lie beyond them."""
