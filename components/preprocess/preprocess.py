"""Validated volumes become memory-mappable slices on the model's grid."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap, write_array_header_1_0

from components.artifacts.cases import learnable
from components.core.machine import cpus
from components.core.settings import checked
from components.core.step import progress
from components.model.grid import CHANNELS, neighbours
from components.model.placement import adc_slices, head_for, image_slices, place, voxel_ml
from components.scans.n4 import without_bias
from components.scans.volumes import read


def preprocess(
    cases: Path,
    slices: Path,
    image_size: int,
    normalization: str,
    n4_bias_correction: bool = False,
    inputs="dwi",
    pixel_mm: float = 0.0,
) -> None:
    """Bring every labelled case to the model's grid and normalise it, where asked for without its bias field.

    Per case `<name>.image.npy` (slices, image_size, image_size), float16, with ADC (2 slices, ...), those of the ADC
    after those of the DWI, and `<name>.mask.npy`, uint8; `index.json` lists them with each slice's neighbours and
    lesion pixels, and where the grid lies on the scan (`Placement`), which is the way back. The 2.5D stacks are
    composed when read.

    Raises:
        StepError: an impossible setting, or too few patients have all that the network is to see.
    """
    given = {"normalization": normalization, "n4_bias_correction": n4_bias_correction, "inputs": inputs}
    given["pixel_mm"] = pixel_mm
    facts = {"image_size": image_size, **given}
    checked(facts)
    channels = CHANNELS[inputs]
    slices.mkdir(parents=True, exist_ok=True)
    labelled = learnable(cases, inputs)

    def one(case: dict) -> dict:
        volume, _ = read(cases / case["files"]["dwi"])
        head = head_for(facts, volume, case["voxel_mm"])
        if n4_bias_correction:
            volume = without_bias(volume)
        mask, _ = read(cases / case["files"]["mask"])
        placement = place(volume, case["voxel_mm"], image_size, pixel_mm, head)
        stem, shape = case["files"]["dwi"].removesuffix("_dwi.nii.gz"), (placement.slices, image_size, image_size)
        with (slices / f"{stem}.image.npy").open("wb") as f:
            write_array_header_1_0(
                f, {"descr": "<f2", "fortran_order": False, "shape": (len(channels) * shape[0], *shape[1:])}
            )
            for image in image_slices(volume, placement, normalization, head):
                f.write(image.data)
            if "adc" in channels:
                for image in adc_slices(read(cases / case["files"]["adc"])[0], placement, head):
                    f.write(image.data)
        # a sparse file: slices without lesion take no room
        lesion = placement.mask(mask, open_memmap(slices / f"{stem}.mask.npy", "w+", np.uint8, shape))
        with_lesion = mask[:, :, placement.first : placement.stop].any((0, 1))
        numbers = case["slice_numbers"] and case["slice_numbers"][placement.first : placement.stop]
        return {
            "case": case["case"],
            "patient": case["patient"],
            "image": f"{stem}.image.npy",
            "mask": f"{stem}.mask.npy",
            "placement": placement.as_dict(),
            "voxel_ml": voxel_ml(case["voxel_mm"]),
            "neighbours": neighbours(numbers, shape[0], len(channels)).tolist(),
            "lesion_pixels": [int(lesion[s].sum()) if with_lesion[s] else 0 for s in range(shape[0])],
        }

    with ThreadPoolExecutor(cpus()) as pool:
        index = list(progress(pool.map(one, labelled), total=len(labelled), what="preprocessed"))
    for case in index:
        if (shrunk := case["placement"]["shrunk"]) < 1:
            logging.info("noted      %s: its head, or its plane where no head was found, is larger than the grid and "
                         "is scaled by %.2f", case["case"], shrunk)  # fmt: skip
    (slices / "index.json").write_text(json.dumps({**facts, "cases": index}))
    total = sum(len(c["lesion_pixels"]) for c in index)
    with_lesion = sum(p > 0 for c in index for p in c["lesion_pixels"])
    grid = f"{image_size}² pixels of {pixel_mm:g} mm" if pixel_mm else f"{image_size}², the whole plane"
    logging.info("%d slices of %d scans at %s, %d with lesion", total, len(index), grid, with_lesion)
