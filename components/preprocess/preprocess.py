"""Validated volumes become memory-mappable slices on the model's grid."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap, write_array_header_1_0

from components.core.cases import learnable
from components.core.machine import cpus
from components.core.settings import checked
from components.core.step import progress
from components.core.volumes import read
from components.unet.bias import without_bias
from components.unet.grid import CHANNELS, adc_grid_slices, mask_to_model_grid, model_grid_slices, neighbours


def preprocess(
    cases: Path, slices: Path, image_size: int, normalization: str, n4_bias_correction: bool = False, inputs="dwi"
) -> None:
    """Resize and normalise every labelled case, where asked for without its bias field.

    Per case `<name>.image.npy` (S, image_size, image_size), float16 z-scores, with ADC (2 S, ...), its slices after
    those of the DWI, and `<name>.mask.npy`, uint8;
    `index.json` lists them with each slice's neighbours and lesion pixels. The 2.5D stacks are composed
    when read. The way back to native space is `to_native_grid` with the case's own shape.

    Raises:
        StepError: an impossible setting, or too few patients have all that the network is to see.
    """
    given = {"normalization": normalization, "n4_bias_correction": n4_bias_correction, "inputs": inputs}
    checked({"image_size": image_size, **given})
    channels = CHANNELS[inputs]
    slices.mkdir(parents=True, exist_ok=True)
    labelled = learnable(cases, inputs)

    def one(case: dict) -> dict:
        volume, _ = read(cases / case["files"]["dwi"])
        if n4_bias_correction:
            volume = without_bias(volume)
        mask, _ = read(cases / case["files"]["mask"])
        stem, shape = case["files"]["dwi"].removesuffix("_dwi.nii.gz"), (case["shape"][2], image_size, image_size)
        with (slices / f"{stem}.image.npy").open("wb") as f:
            write_array_header_1_0(
                f, {"descr": "<f2", "fortran_order": False, "shape": (len(channels) * shape[0], *shape[1:])}
            )
            for image in model_grid_slices(volume, image_size, normalization):
                f.write(image.data)
            if "adc" in channels:
                for image in adc_grid_slices(read(cases / case["files"]["adc"])[0], image_size):
                    f.write(image.data)
        # a sparse file: slices without lesion take no room
        lesion = mask_to_model_grid(mask, image_size, open_memmap(slices / f"{stem}.mask.npy", "w+", np.uint8, shape))
        with_lesion = mask.any((0, 1))
        return {
            "case": case["case"],
            "patient": case["patient"],
            "image": f"{stem}.image.npy",
            "mask": f"{stem}.mask.npy",
            "native_shape": case["shape"],
            "neighbours": neighbours(case["slice_numbers"], shape[0], len(channels)).tolist(),
            "lesion_pixels": [int(lesion[s].sum()) if with_lesion[s] else 0 for s in range(shape[0])],
        }

    with ThreadPoolExecutor(cpus()) as pool:
        index = list(progress(pool.map(one, labelled), total=len(labelled), what="preprocessed"))
    facts = {
        "image_size": image_size, "normalization": normalization, "n4_bias_correction": n4_bias_correction,
        "inputs": inputs, "cases": index,
    }  # fmt: skip
    (slices / "index.json").write_text(json.dumps(facts))
    total = sum(len(c["lesion_pixels"]) for c in index)
    with_lesion = sum(p > 0 for c in index for p in c["lesion_pixels"])
    logging.info("%d slices of %d scans at %d², %d with lesion", total, len(index), image_size, with_lesion)
