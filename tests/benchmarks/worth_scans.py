"""The patients that a comparison of models trains on and those that it tests on, as `ingest` keeps them."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from components.artifacts.cases import Case, Cases
from components.core.errors import StepError
from components.core.machine import cpus
from components.core.settings import Settings
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.preprocess.preprocess import preprocess
from components.split.split import split
from pipelines.demo.protocol import HELD_OUT, TRAINING, Protocol
from pipelines.demo.scans import write_image
from pipelines.demo.synthesis import make_scan

TRAINING_SEED, UNSEEN_SEED = 42, 2024
RATIOS = (0.74, 0.25, 0.01)
"""Of the training patients; the split wants one to test, too, who is left out here."""


def training_set(folder: Path, patients: int) -> Path:
    """Make synthetic patients, a quarter of them to validate; return the folder with `cases` and `split.json`."""
    ingested(write_scans(folder / "scans", patients, TRAINING_SEED, TRAINING), folder / "cases")
    split(folder / "cases", folder / "split.json", folder / "split.html", RATIOS, 0)
    return folder


def unseen_set(folder: Path, patients: int) -> Path:
    """Make synthetic patients of another seed and of shifted ranges; return their `cases`."""
    return ingested(write_scans(folder / "scans", patients, UNSEEN_SEED, HELD_OUT), folder / "cases")


def write_scans(folder: Path, patients: int, seed: int, protocol: Protocol) -> Path:
    """Write synthetic patients, each with its ADC map and its mask, in BIDS layout; return the folder."""
    with ProcessPoolExecutor(cpus(), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(partial(_write, folder, seed, protocol), range(patients)))
    return folder


def _write(folder: Path, seed: int, protocol: Protocol, patient: int) -> None:
    scan = make_scan(seed, patient, protocol)
    name = f"sub-{patient:04d}"
    write_image(folder / name / "dwi" / f"{name}_dwi.nii.gz", scan.dwi, scan.affine)
    write_image(folder / name / "dwi" / f"{name}_adc.nii.gz", (1e3 * scan.adc_mm2_s).astype(np.float32), scan.affine)
    write_image(folder / "derivatives" / name / f"{name}_msk.nii.gz", scan.mask.astype(np.uint8), scan.affine)


def ingested(scans: Path, cases: Path) -> Path:
    """Check the scans of a folder as `ingest` does; return `cases`, where they are kept.

    Raises:
        StepError: no scan of the folder has a mask.
    """
    keys = [path.relative_to(scans).as_posix() for path in sorted(scans.rglob("*")) if path.is_file()]
    validated = check(discover(keys), scans, cases, data_uri="s3://benchmark/scans", data_version=scans.parent.name)
    if not any(case.labelled for case in validated.cases):
        raise StepError(f"{scans} holds no scan with a mask that can be used: make check-data DATA={scans} says why.")
    validated.write(cases)
    return cases


def labelled(cases: Path) -> list[Case]:
    """Return the scans with a mask."""
    return [case for case in Cases.read(cases).cases if case.labelled]


def slices_for(data: Path, settings: Settings) -> Path:
    """Return the slices of a training set on the grid of the settings; each grid is made once."""
    grid = settings.model_dump(include={"image_size", "normalization", "n4_bias_correction", "inputs", "pixel_mm"})
    slices = data / "-".join(str(value).replace("+", "_") for value in ("slices", *grid.values()))
    if not (slices / "index.json").exists():
        preprocess(data / "cases", slices, **grid)
    return slices
