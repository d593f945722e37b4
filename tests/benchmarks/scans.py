"""Scans to measure on: noise with a bright ball in it, of the sizes that real ones have."""

from pathlib import Path

import numpy as np

from components.scans.volumes import nifti_bytes

SHAPES = ((112, 112, 73), (192, 192, 32), (256, 256, 30), (128, 128, 25))


def write_scans(folder: Path, count: int, seed: int = 0) -> None:
    """`count` patients in the images/masks layout."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        shape = SHAPES[i % len(SHAPES)]
        rng = np.random.default_rng([seed, i])
        centre = np.array(shape) * rng.uniform(0.35, 0.65, 3)
        axes = np.ogrid[tuple(map(slice, shape))]
        distance = sum(((g - c) / (n / 10)) ** 2 for g, c, n in zip(axes, centre, shape, strict=True))
        mask = distance < 1
        image = rng.normal(200, 30, shape).clip(0) + 150 * mask
        affine = np.diag([-2.0, -2.0, 4.0, 1.0])
        (folder / "images" / f"patient{i:03d}.nii.gz").write_bytes(nifti_bytes(image.astype(np.int16), affine))
        (folder / "masks" / f"patient{i:03d}.nii.gz").write_bytes(nifti_bytes(mask.astype(np.uint8), affine))
