"""Synthetic diffusion MRI of ischemic stroke, for the demo and for training. Nobody was scanned for it.

    from pipelines.demo.synthesis import make_scan
    scan = make_scan(seed=42, patient=0)
    scan.dwi, scan.adc_mm2_s, scan.mask, scan.affine, scan.facts

Anatomy is the MNI152 template's tissue maps (package data of nilearn), folded, posed and deformed differently for each
patient; signal is S0 * exp(-b * ADC) at 0 and b; ADC is computed from the two noisy images as a scanner does. A scan
depends on (seed, patient, protocol) alone.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pipelines.demo.acquisition import Grid, coil_bias, distorted, draw_grid
from pipelines.demo.anatomy import template
from pipelines.demo.fields import smooth_field
from pipelines.demo.lesions import draw_kind, lesion_score, lesion_volume_ml, look_alikes
from pipelines.demo.patient import around, folds_mm, grown, outlined, template_voxels, tissues
from pipelines.demo.protocol import TRAINING, Protocol

FLUID_ADC, PLEXUS_ADC = 3.0, 1.4
"""1e-3 mm²/s."""
THALAMUS_MM, THALAMUS_RADII_MM = (12, -18, 8), np.array([10, 13, 10])
"""Centre (|x|, y, z) and radii."""
MOST_LESION_ADC = 0.73
SOME_HAVE_NONE = {"zero_fill": 1.0, "ghost": 0.0}
"""Half of the scans."""
SHOWN_MM = 20.0
"""How far outside the brain something may shine: scalp and eyes."""


@dataclass(frozen=True)
class Scan:
    """A simulated scan (X, Y, S) and the truth behind it.

    adc_mm2_s: in mm²/s, 0 where nothing is shown. gray, white: shares of each voxel. look_alikes: name to the share of
    each voxel of what looks like a lesion but is not one, and of the posterior fossa, which is bright with a low ADC;
    of `pile_up` and `bright_tissue`, how much brighter they are.
    facts: what was drawn.
    """

    affine: np.ndarray
    dwi: np.ndarray
    adc_mm2_s: np.ndarray
    mask: np.ndarray
    gray: np.ndarray
    white: np.ndarray
    look_alikes: dict[str, np.ndarray]
    facts: dict

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def make_scan(seed: int, patient: int, protocol: Protocol = TRAINING) -> Scan:
    """Return the scan of a patient (from 0): the same for the same arguments."""
    rng, volume_ml, brain = np.random.default_rng([seed, patient]), lesion_volume_ml(patient, seed), template()
    draw = {name: float(rng.uniform(*value)) for name, value in vars(protocol).items() if isinstance(value, tuple)}
    draw |= {name: none for name, none in SOME_HAVE_NONE.items() if rng.random() < 0.5}
    grid = draw_grid(rng, draw)
    voxels, along = template_voxels(rng, grid, draw)
    near = np.flatnonzero(brain.sampler.nearest(brain.depth_mm, voxels) > -SHOWN_MM)
    voxels, piled = distorted(rng, grid, voxels, near, along, draw["distortion_mm"])
    depth_mm, eye_mm = brain.sampler(np.stack([brain.depth_mm, brain.eye_mm], axis=1), voxels).T
    inside = np.flatnonzero(depth_mm > -2)

    kind = draw_kind(rng, volume_ml) if volume_ml else "none"
    rows = {"gray": brain.gray, "white": brain.white, "ventricle_mm": brain.ventricle_mm, "fold_mm": folds_mm(rng)}
    rows |= look_alikes(rng, protocol) | {"fossa": brain.fossa, "less_adc": _less_adc(draw)}
    rows["gain"] = rows["gain"] * (1 + (draw["fossa_gain"] - 1) * brain.fossa)
    if volume_ml:
        rows["score"] = lesion_score(rng, kind, volume_ml)
    values = brain.sampler(np.stack(list(rows.values()), axis=1), voxels[:, inside])
    sampled = dict(zip(rows, np.ascontiguousarray(values.T), strict=True))
    zero = np.zeros(inside.size, np.float32)
    gray, white, fluid = tissues(
        rng, draw, depth_mm[inside], *(sampled[name] for name in ("gray", "white", "ventricle_mm", "fold_mm"))
    )
    share, clear = grown(
        sampled.get("score", zero), gray + white, volume_ml, np.prod(grid.points_mm) / 1000, draw["lesion_edge_mm"]
    )
    shine, choroid, old, rim = (sampled.get(name, zero) * clear for name in ("shine_through", "choroid", "old", "rim"))
    choroid, old, shine = choroid * fluid, old * (1 - fluid), np.maximum(shine, 0.7 * rim)

    fine, coarse = (smooth_field(rng, grid.points, grid.points_mm, mm).ravel()[near][inside] for mm in (4.0, 16.0))
    b = draw["b"] / 1000
    gray, white, fluid = gray * (1 - old), white * (1 - old), fluid + old - choroid
    gray_adc, white_adc = draw["gray_adc"], draw["white_adc"]
    gray_s0, white_s0 = draw["gray_over_white"] * np.exp(b * gray_adc), np.exp(b * white_adc)
    fluid_s0, choroid_s0 = rng.uniform(1.8, 4.0) * white_s0, rng.uniform(0.9, 2.0) * np.exp(b * PLEXUS_ADC)
    gain = sampled["gain"] * (1 + draw["texture"] * (fine + coarse)) * (1 + rng.uniform(0.4, 1.2) * shine)
    relative_adc = 1 - sampled["less_adc"] + draw["adc_variation"] * (0.6 * fine + coarse)
    lesion_gain, lesion_adc = _lesion(rng, draw, share, fine, coarse)
    lesion_adc *= 1 - sampled["less_adc"]

    def signal(b: float) -> np.ndarray:
        """Of each point inside, 1 for white matter at the scan's b."""
        healthy = np.exp(-b * 0.28 * shine) * (
            gray * gray_s0 * np.exp(-b * gray_adc * relative_adc)
            + white * white_s0 * np.exp(-b * white_adc * relative_adc)
        )
        infarct = (gray * gray_s0 + white * white_s0) * lesion_gain * np.exp(-b * lesion_adc)
        fluids = fluid * fluid_s0 * np.exp(-b * FLUID_ADC) + choroid * choroid_s0 * np.exp(-b * PLEXUS_ADC)
        return gain * ((1 - share) * healthy + share * infarct) + fluids

    def of_slices(values: np.ndarray) -> np.ndarray:
        points = np.zeros(np.prod(grid.points), np.float32)
        points[near[inside]] = values
        return grid.slices(points)

    outside = around(rng, grid, near, depth_mm, eye_mm) * piled * np.exp(b)
    images = []
    for value in (0.0, b):
        points = np.zeros(np.prod(grid.points), np.float32)
        outside[inside] = signal(value) * piled[inside]
        points[near] = outside
        images.append(grid.slices(points))
        outside *= np.exp(-b)
    b0, dwi = images
    pixels = draw["eddy_mm"] / grid.acquired_mm[1]
    b0 = b0 + abs(pixels) * (np.roll(b0, int(np.sign(pixels)), axis=1) - b0)
    dwi, b0 = _received(rng, draw, grid, dwi, b0)

    shares = {"gray": gray, "white": white, "lesion": share * (gray + white)}
    shares |= {"shine_through": shine * (gray + white), "choroid_plexus": choroid, "old_infarct": old}
    shares |= {"fossa": sampled["fossa"], "pile_up": piled[inside].clip(1) - 1}
    shares |= {"bright_tissue": sampled["gain"].clip(1) - 1}
    shares = {name: grid.interpolated(of_slices(values)) for name, values in shares.items()}
    mask = outlined(shares.pop("lesion"), volume_ml * 1000 / np.prod(np.linalg.norm(grid.affine[:3, :3], axis=0)))

    points = np.full(np.prod(grid.points), -SHOWN_MM, np.float32)
    points[near] = depth_mm
    shown = _shown(rng, protocol, draw, grid, points, dwi)
    brightness = 10 ** rng.uniform(1.7, 3.0)
    facts = {"site": protocol.site, "kind": kind, "lesion_ml_asked": volume_ml, **draw}
    return Scan(
        affine=grid.affine,
        dwi=np.where(shown, dwi * brightness, 0).astype(np.float32),
        adc_mm2_s=np.where(
            shown, np.clip(np.log(np.maximum(b0, 1e-3) / np.maximum(dwi, 1e-3)) / (b * 1000), 0, 4e-3), 0
        ),
        mask=mask,
        gray=shares.pop("gray"),
        white=shares.pop("white"),
        look_alikes=shares,
        facts=facts,
    )


def _less_adc(draw: dict[str, float]) -> np.ndarray:
    """Return by which share the ADC of each template voxel is below that of the hemispheres."""
    brain = template()
    left, right = (brain.bump(np.array(THALAMUS_MM) * [x, 1, 1], THALAMUS_RADII_MM) for x in (-1, 1))
    return (1 - draw["fossa_adc"]) * brain.fossa + (1 - draw["thalamus_adc"]) * np.minimum(left + right, 1)


def _lesion(
    rng: np.random.Generator, draw: dict[str, float], share: np.ndarray, fine: np.ndarray, coarse: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much longer T2 makes the lesion's signal at b = 0, and its ADC in 1e-3 mm²/s, at each point."""
    adc, b = draw["lesion_adc"], draw["b"] / 1000
    gain = np.clip(draw["lesion_contrast"] / np.exp(b * (draw["white_adc"] + 0.03 - adc)), 0.95, 2.4)
    uneven = rng.uniform(0.03, 0.18, 2)
    adc = adc * (1 + uneven[0] * coarse + 0.4 * uneven[0] * fine) + rng.uniform(0, 0.15) * (1 - share)
    return gain * (1 + uneven[1] * (coarse + 0.5 * fine)).clip(0.7, 1.6), adc.clip(0.2, MOST_LESION_ADC)


def _received(
    rng: np.random.Generator, draw: dict[str, float], grid: Grid, dwi: np.ndarray, b0: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the coil receives of both images: bias, ghost, Rician noise, blur, interpolation."""
    bias = coil_bias(rng, dwi.shape, draw["bias"]) * rng.normal(1, 0.012, dwi.shape[2])
    images = []
    for image in (dwi, b0):
        image = bias * image
        image = image + draw["ghost"] * np.roll(image, image.shape[1] // 2, axis=1)
        sigma = np.float32(draw["noise"])
        noisy = [p + sigma * rng.standard_normal(image.shape, dtype=np.float32) for p in (image.astype(np.float32), 0)]
        images.append(np.hypot(*(grid.reconstructed(n, draw["sharpness"]) for n in noisy)))
    return images[0], images[1]


def _shown(
    rng: np.random.Generator,
    protocol: Protocol,
    draw: dict[str, float],
    grid: Grid,
    depth_mm: np.ndarray,
    dwi: np.ndarray,
) -> np.ndarray:
    """Where the file shows something: everywhere, in the brain alone, or where it is not dark."""
    if rng.random() < protocol.skull_stripped:
        return grid.interpolated(grid.slices(depth_mm)) > rng.uniform(-1.5, 1.0)
    if rng.random() < protocol.masked_air:
        return ndimage.uniform_filter(dwi, (5, 5, 1)) > rng.uniform(0.1, 0.2) + 1.5 * draw["noise"]
    return np.ones(dwi.shape, bool)
