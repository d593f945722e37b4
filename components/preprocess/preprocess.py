"""Validated volumes become memory-mappable slices on the model's grid."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from components.core.machine import cpus
from components.core.step import progress
from components.core.volumes import read
from components.unet.grid import mask_to_model_grid, neighbours, to_model_grid


def preprocess(cases: Path, slices: Path, image_size: int, normalization: str) -> None:
    """Resize and normalise every labelled case.

    Per case `<name>.image.npy` (S, image_size, image_size), float16 z-scores, and `<name>.mask.npy`, uint8;
    `index.json` lists them with each slice's neighbours and lesion pixels. The 2.5D stacks are composed
    when read. The way back to native space is `to_native_grid` with the case's own shape.
    """
    slices.mkdir(parents=True, exist_ok=True)
    labelled = [c for c in json.loads((cases / "cases.json").read_text())["cases"] if c["labelled"]]

    def one(case: dict) -> dict:
        volume, _ = read(cases / case["files"]["dwi"])
        mask, _ = read(cases / case["files"]["mask"])
        image, lesion = to_model_grid(volume, image_size, normalization), mask_to_model_grid(mask, image_size)
        stem = case["files"]["dwi"].removesuffix("_dwi.nii.gz")
        np.save(slices / f"{stem}.image.npy", image)
        np.save(slices / f"{stem}.mask.npy", lesion)
        return {
            "case": case["case"],
            "patient": case["patient"],
            "image": f"{stem}.image.npy",
            "mask": f"{stem}.mask.npy",
            "native_shape": case["shape"],
            "neighbours": neighbours(case["slice_numbers"], len(image)).tolist(),
            "lesion_pixels": lesion.sum((1, 2), dtype=np.int64).tolist(),
        }

    with ThreadPoolExecutor(cpus()) as pool:
        index = list(progress(pool.map(one, labelled), total=len(labelled), what="preprocessed"))
    facts = {"image_size": image_size, "normalization": normalization, "cases": index}
    (slices / "index.json").write_text(json.dumps(facts))
    total = sum(len(c["lesion_pixels"]) for c in index)
    with_lesion = sum(p > 0 for c in index for p in c["lesion_pixels"])
    logging.info("%d slices of %d scans at %d², %d with lesion", total, len(index), image_size, with_lesion)
