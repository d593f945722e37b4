"""Bring the validated scans to the model's grid, as memory-mappable arrays."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap, write_array_header_1_0

from components.artifacts.cases import Case, Cases
from components.artifacts.slices import CaseSlices, GridPlacement, Slices
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
    inputs: str = "dwi",
    pixel_mm: float = 0.0,
) -> None:
    """Bring every labelled case to the model's grid and normalise it.

    Writes `<name>.image.npy` and `<name>.mask.npy` of each case and `index.json` (see `Slices`) into `slices`. The 2.5D
    stacks are made when the arrays are read.

    Raises:
        StepError: a setting is invalid, or too few patients have all images that the network sees.
    """
    settings = Slices(
        image_size=image_size,
        normalization=normalization,
        n4_bias_correction=n4_bias_correction,
        inputs=inputs,
        pixel_mm=pixel_mm,
        cases=[],
    )
    checked(settings.model_dump(exclude={"format_version", "cases"}))
    slices.mkdir(parents=True, exist_ok=True)
    learnable = Cases.read(cases).learnable(inputs)
    with ThreadPoolExecutor(cpus()) as pool:
        results = pool.map(lambda case: _preprocess_case(case, cases, slices, settings), learnable)
        done = list(progress(results, total=len(learnable), what="preprocessed"))
    for case in done:
        if case.placement.shrunk < 1:
            logging.info("noted      %s: its head (or its plane, if no head was found) is larger than the grid and is "
                         "scaled by %.2f", case.case, case.placement.shrunk)  # fmt: skip
    settings.model_copy(update={"cases": done}).write(slices)
    total = sum(len(case.lesion_pixels) for case in done)
    with_lesion = sum(pixels > 0 for case in done for pixels in case.lesion_pixels)
    grid = f"{image_size}² pixels of {pixel_mm:g} mm" if pixel_mm else f"{image_size}², the whole plane"
    logging.info("%d slices of %d scans at %s, %d with lesion", total, len(done), grid, with_lesion)


def _preprocess_case(case: Case, cases: Path, slices: Path, settings: Slices) -> CaseSlices:
    """Write the arrays of one case into `slices`, and describe them."""
    size, channels = settings.image_size, CHANNELS[settings.inputs]
    volume, _ = read(cases / case.files["dwi"])
    head = head_for(settings.model_dump(), volume, case.voxel_mm)
    if settings.n4_bias_correction:
        volume = without_bias(volume)
    mask, _ = read(cases / case.files["mask"])
    placement = place(volume, case.voxel_mm, size, settings.pixel_mm, head)
    stem, shape = case.files["dwi"].removesuffix("_dwi.nii.gz"), (placement.slices, size, size)
    images = image_slices(volume, placement, settings.normalization, head)
    if "adc" in channels:
        adc, _ = read(cases / case.files["adc"])
        images = chain(images, adc_slices(adc, placement, head))
    _write_slices(slices / f"{stem}.image.npy", (len(channels) * shape[0], size, size), images)
    # slices without lesion stay unwritten: the file is sparse
    lesion = placement.mask(mask, open_memmap(slices / f"{stem}.mask.npy", "w+", np.uint8, shape))
    with_lesion = np.asarray(mask[:, :, placement.first : placement.stop].any((0, 1)))
    numbers = case.slice_numbers and case.slice_numbers[placement.first : placement.stop]
    return CaseSlices(
        case=case.case,
        patient=case.patient,
        image=f"{stem}.image.npy",
        mask=f"{stem}.mask.npy",
        placement=GridPlacement(**placement.as_dict()),
        voxel_ml=voxel_ml(case.voxel_mm),
        neighbours=neighbours(numbers, shape[0], len(channels)).tolist(),
        lesion_pixels=[int(lesion[s].sum()) if with_lesion[s] else 0 for s in range(shape[0])],
    )


def _write_slices(path: Path, shape: tuple[int, int, int], images: Iterable[np.ndarray]) -> None:
    """Write float16 slices, one after the other, into a `.npy` file of this shape."""
    with path.open("wb") as file:
        write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for image in images:
            file.write(image.data)
