"""A patient's head at the points of a grid: pose, folds, tissues, the lesion, and the tissue around the brain."""

import numpy as np

from pipelines.demo.acquisition import Grid, rotation
from pipelines.demo.anatomy import template
from pipelines.demo.fields import Sampler, smooth_field

BRAIN_CENTRE_MM = np.array([0.0, -17.0, 6.0])  # MNI
FOLD_MM = 11.0
"""About the distance between two sulci."""
RIBBON_MM = 2.6
"""Thickness of cortex."""
OUT_OF_REACH = -1000.0
"""Score (mm) where a lesion never comes."""
EYE_MM = 12.5
"""Radius."""
LEAST_SHARE = 0.25
"""Of a voxel: an expert's outline holds what the lesion fills to so much, or more."""


def template_voxels(rng: np.random.Generator, grid: Grid, draw: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of each point in the template (3, points), after a random pose and smooth deformation.

    Also return the length of a millimetre along the plane's second axis there, in template voxels.
    """
    turn = rotation([draw["tilt_degrees"], *rng.uniform([-7, -8], [7, 8])])
    pose = np.eye(4)
    pose[:3, :3] = turn * (draw["head_scale"] * rng.normal(1, 0.03, 3))
    pose[:3, 3] = -pose[:3, :3] @ BRAIN_CENTRE_MM
    to_template = np.linalg.inv(template().affine) @ np.linalg.inv(pose) @ grid.points_to_mm()
    along = to_template[:3, 1] / grid.points_mm[1]
    i, j, k = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in grid.points), indexing="ij", sparse=True)
    voxels = np.empty((3, *grid.points), np.float32)
    for axis, (x, y, z, shift) in enumerate(to_template[:3].astype(np.float32)):
        far = smooth_field(rng, grid.points, grid.points_mm, 40.0)
        near = smooth_field(rng, grid.points, grid.points_mm, 14.0)
        voxels[axis] = x * i + y * j + (z * k + shift)
        voxels[axis] += draw["warp_mm"] / 2 * (1.3 * far + 0.7 * near)
    return voxels.reshape(3, -1), along


def folds_mm(rng: np.random.Generator) -> np.ndarray:
    """Return about how far each template voxel is from a sulcus of this patient, mm; far in the cerebellum.

    Sulci are where a random field on the surface of the brain is zero; they run down from there.
    """
    brain, coarse_mm = template(), 4.0
    shape = tuple(int(2 * n / coarse_mm) + 2 for n in brain.shape)
    field = smooth_field(rng, shape, (coarse_mm,) * 3, FOLD_MM)
    steepness = np.sqrt(np.mean([np.mean(np.diff(field, axis=a) ** 2) for a in range(3)]) * 2) / coarse_mm
    rows = np.stack([field.ravel(), smooth_field(rng, shape, (coarse_mm,) * 3, 15.0).ravel()], axis=1)
    value, open_to = Sampler(shape)(rows, brain.surface_mm / coarse_mm).T
    away = np.abs(value) / steepness + 1.0 * np.clip(open_to, 0, None)
    return np.where(brain.cerebellum, 30.0, away).astype(np.float32)


def tissues(
    rng: np.random.Generator,
    draw: dict[str, float],
    depth_mm: np.ndarray,
    gray: np.ndarray,
    white: np.ndarray,
    ventricle_mm: np.ndarray,
    fold_mm: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shares of gray matter, white matter and fluid at each point, from the template's."""
    atrophy = draw["atrophy"]
    sulcus_mm, deep_mm = 0.5 + 1.0 * atrophy * rng.uniform(0.5, 1), rng.uniform(10, 20)
    fluid = np.clip((0.97 - gray - white - 0.1) / rng.uniform(0.3, 0.6), 0, 1)
    folded = (sulcus_mm * np.clip(1 - depth_mm / deep_mm, -1, 1) - fold_mm) / 0.8 + 0.5
    rim = (rng.uniform(0.0, 1.0) + 1.2 * atrophy - depth_mm) / 1.5 + 0.5
    ventricles = np.clip((draw["ventricles_mm"] - ventricle_mm) / 1.5 + 0.5, 0, 1) * (depth_mm > 8)
    fluid = np.clip(np.maximum.reduce([fluid, folded, rim, ventricles]), 0, 1)
    ribbon = np.clip((sulcus_mm + RIBBON_MM - fold_mm) / 0.8 + 0.5, 0, 1) * np.clip((deep_mm + 3 - depth_mm) / 3, 0, 1)
    ribbon = np.maximum(ribbon, np.clip((RIBBON_MM + rim - depth_mm) / 1.5 + 0.5, 0, 1))
    of_tissue = np.clip((gray / np.maximum(gray + white, 0.05) - 0.5) * 2 + 0.5, 0, 1)
    gray = np.maximum(of_tissue, ribbon) * (1 - fluid)
    return gray, 1 - fluid - gray, fluid


def grown(
    score: np.ndarray, tissue: np.ndarray, volume_ml: float, point_ml: float | np.floating, edge_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lower the score's threshold, by bisection, until the lesion has its volume.

    Returns its share of each point's tissue (edges are `edge_mm` wide), and where points are clear of it by 5 mm.
    """
    if not volume_ml:
        return np.zeros_like(score), np.ones(score.shape, bool)
    edge_mm = min(edge_mm, 0.5 + (volume_ml * 1000) ** (1 / 3) / 4)
    reached = np.flatnonzero(score > OUT_OF_REACH / 2)
    if not reached.size:  # it is outside the scanned volume
        return np.zeros_like(score), np.ones(score.shape, bool)
    some, of_it = score[reached], tissue[reached]
    low, high = float(some.min()) - 50, float(some.max()) + edge_mm
    for _ in range(20):
        level = (low + high) / 2
        much = (np.clip((some - level) / edge_mm + 0.5, 0, 1) * of_it).sum() * point_ml > volume_ml
        low, high = (level, high) if much else (low, level)
    return np.clip((score - high) / edge_mm + 0.5, 0, 1), score < high - 5


def outlined(share: np.ndarray, voxels: float) -> np.ndarray:
    """Return the lesion's mask: so many voxels of the largest share, none below `LEAST_SHARE`, and one at least."""
    if not voxels:
        return np.zeros(share.shape, bool)
    some = np.sort(share[share > LEAST_SHARE / 2], axis=None)
    if not some.size:
        return share >= max(share.max(), 1e-6)
    count = min(max(1, round(voxels)), some.size)
    return share >= min(max(some[-count], LEAST_SHARE), some[-1])


def around(
    rng: np.random.Generator, grid: Grid, points: np.ndarray, depth_mm: np.ndarray, eye_mm: np.ndarray
) -> np.ndarray:
    """Return what shines around the brain, over white matter: scalp and muscle, faint, for fat is suppressed; eyes."""
    strength = rng.uniform(0, 0.25)
    skull_mm, texture = rng.uniform(7, 11), smooth_field(rng, grid.points, grid.points_mm, 8.0).ravel()[points]
    scalp = np.clip((-depth_mm - skull_mm) / 2, 0, 1) * np.clip((skull_mm + rng.uniform(3, 7) + depth_mm) / 2, 0, 1)
    rings = np.clip(1.5 - np.abs(eye_mm - EYE_MM) / 2, 0, 1) * (depth_mm < -2)
    return (strength * (scalp * np.clip(1 + 0.7 * texture, 0, 3) + 2 * rings)).astype(np.float32)
