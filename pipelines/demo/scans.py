"""The demo's scans on disk: synthetic, in ISLES'22 layout. Nobody was scanned for them.

    from pipelines.demo.scans import write_demo_scans
    write_demo_scans(Path("data/demo"))

What they show is made by `pipelines.demo.synthesis`. A patient depends on (seed, index) alone, not on the set's size.
"""

import csv
import gzip
import json
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import nibabel as nib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from pipelines.demo.lesions import lesion_volume_ml
from pipelines.demo.protocol import TRAINING, Protocol
from pipelines.demo.synthesis import Scan, make_scan

GENERATOR = "pipelines.demo.scans"
GENERATOR_VERSION = "3"  # raise it with any change to a voxel or to the layout
HEADER_DESCRIPTION = b"SYNTHETIC demo, not a patient"
README = """SYNTHETIC demo scans: not real patients, not for clinical use or research conclusions.
Simulated from the MNI152 template by pipelines/demo; laid out like ISLES'22 (BIDS).
"""

MASK_DTYPES = (np.uint8, np.uint16, np.int16, np.float64)


@dataclass(frozen=True)
class Scanner:
    """How a scanner's files are written; its scans are drawn from `protocol`."""

    protocol: Protocol
    dwi_dtype: type
    adc_dtype: type
    adc_per_mm2_s: float  # 1e3: its files hold ADC in 1e-3 mm²/s

    @property
    def name(self) -> str:
        return self.protocol.site


THICK: dict[str, Any] = {"slice_mm": (4.5, 5.5), "zero_fill": (1.0, 1.5)}
THIN: dict[str, Any] = {"slice_mm": (2.0, 2.2), "zero_fill": (1.0, 1.0)}
SCANNERS = (
    Scanner(replace(TRAINING, site="SYNTHETIC-A", **THICK), np.float64, np.float64, 1e3),
    Scanner(replace(TRAINING, site="SYNTHETIC-B", **THIN), np.int16, np.int16, 1e6),
    Scanner(replace(TRAINING, site="SYNTHETIC-C", **THICK), np.int16, np.float32, 1.0),
)


@dataclass(frozen=True)
class DemoPatient:
    """A row of participants.tsv."""

    name: str
    site: str
    slice_thickness_mm: float
    lesion_volume_asked_ml: float
    lesion_volume_ml: float
    lesion_components: int

    @property
    def lesion_free(self) -> bool:
        return self.lesion_volume_asked_ml == 0


def simulate_scan(index: int, seed: int) -> Scan:
    """Return the scan of the demo's patient ``index`` (from 0)."""
    return make_scan(seed, index, SCANNERS[index % 3].protocol)


def write_image(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI file. Its bytes depend on the volume only: no time stamp, no file name."""
    image = nib.Nifti1Image(volume, affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = HEADER_DESCRIPTION
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        packed.write(image.to_bytes())


def write_patient(folder: Path, seed: int, index: int) -> DemoPatient:
    scan, name, session = simulate_scan(index, seed), f"sub-demo{index + 1:04d}", "ses-0001"
    scanner, stem = SCANNERS[index % 3], f"{name}_{session}"
    mask = scan.mask.astype(MASK_DTYPES[index % len(MASK_DTYPES)])
    dwi: np.ndarray = scan.dwi.round().astype(scanner.dwi_dtype)
    adc: np.ndarray = (scan.adc_mm2_s * scanner.adc_per_mm2_s).round(6).astype(scanner.adc_dtype)
    write_image(folder / name / session / "dwi" / f"{stem}_dwi.nii.gz", dwi, scan.affine)
    write_image(folder / name / session / "dwi" / f"{stem}_adc.nii.gz", adc, scan.affine)
    write_image(folder / "derivatives" / name / session / f"{stem}_msk.nii.gz", mask, scan.affine)
    volume_ml = float(scan.mask.sum() * abs(np.linalg.det(scan.affine)) / 1000)
    return DemoPatient(
        name=name,
        site=scanner.name,
        slice_thickness_mm=round(scan.voxel_mm[2], 3),
        lesion_volume_asked_ml=round(lesion_volume_ml(index, seed), 3),
        lesion_volume_ml=round(volume_ml, 3),
        lesion_components=ndimage.label(scan.mask, np.ones((3, 3, 3)))[1],
    )


def read_participants(folder: Path) -> list[DemoPatient]:
    with (folder / "participants.tsv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    kinds = get_type_hints(DemoPatient).values()
    return [DemoPatient(*(kind(v) for kind, v in zip(kinds, row, strict=True))) for row in rows]


def write_participants(folder: Path, patients: list[DemoPatient]) -> None:
    header = ["participant_id", *(field.name for field in fields(DemoPatient)[1:])]
    with (folder / "participants.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerows([header, *map(astuple, patients)])


def describe(patients: int, seed: int) -> dict:
    return {
        "Name": "SYNTHETIC stroke diffusion MRI: simulated, not real patients",
        "BIDSVersion": "1.8.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": GENERATOR, "Version": GENERATOR_VERSION}],
        "Seed": seed,
        "Patients": patients,
    }


def write_demo_scans(folder: Path, patients: int = 24, seed: int = 42, processes: int = 2) -> list[DemoPatient]:
    """Write the demo set to ``folder`` whole or not at all; leave it as it is if it is there already.

    An older demo set in ``folder`` is replaced; anything else there is refused.
    """
    description, description_file = describe(patients, seed), folder / "dataset_description.json"
    if folder.exists() and any(folder.iterdir()):
        found = json.loads(description_file.read_text()) if description_file.exists() else {}
        if found == description:
            return read_participants(folder)
        if GENERATOR not in [by.get("Name") for by in found.get("GeneratedBy", [])]:
            raise FileExistsError(f"{folder} holds something other than demo scans. Name another folder, or empty it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        write = partial(write_patient, fresh, seed)
        progress = partial(tqdm, total=patients, desc="demo scans", unit="patient", disable=None, file=sys.__stderr__)
        if processes == 1:
            written = list(progress(map(write, range(patients))))
        else:
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
                written = list(progress(pool.map(write, range(patients))))
        write_participants(fresh, written)
        (fresh / "README").write_text(README)
        (fresh / description_file.name).write_text(json.dumps(description, indent=2) + "\n")
        if folder.exists():
            folder.rename(Path(scratch) / "previous")
        fresh.rename(folder)
    return written
