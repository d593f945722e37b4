"""Synthetic diffusion MRI of ischemic stroke in ISLES'22 layout. Nobody was scanned for it.

    from pipelines.demo.scans import write_demo_scans
    write_demo_scans(Path("data/demo"))

Anatomy is the MNI152 template's tissue maps (package data of nilearn), posed and deformed anew for
each patient; signal is S0 * exp(-b * ADC) at b = 0 and 1000 s/mm²; ADC is computed from the two
noisy images as a scanner does. A patient depends on (seed, index) alone, not on the set's size.
"""

import csv
import gzip
import json
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from pipelines.demo import anatomy

GENERATOR = "pipelines.demo.scans"
GENERATOR_VERSION = "1"  # raise it with any change to a voxel or to the layout
HEADER_DESCRIPTION = b"SYNTHETIC demo, not a patient"
README = """SYNTHETIC demo scans: not real patients, not for clinical use or research conclusions.
Simulated from the MNI152 template by pipelines/demo/scans.py; laid out like ISLES'22 (BIDS).
"""

B_VALUE = 1000.0  # s/mm²
ECHO_TIME_MS = 80.0
INFARCT_ADC_MM2_S = 0.45e-3
BRAIN_CENTRE_MM = np.array([0.0, -17.0, 6.0])  # MNI
MASK_DTYPES = (np.uint8, np.uint16, np.int16, np.float64)


@dataclass(frozen=True)
class Tissue:
    """Water density relative to CSF (Tofts 2003), T2 at 3 T (Wansapura 1999), ADC in mm²/s."""

    proton_density: float
    t2_ms: float
    adc_mm2_s: float

    @property
    def s0(self) -> float:
        return self.proton_density * np.exp(-ECHO_TIME_MS / self.t2_ms)

    def signal(self, b: float, adc_scale: np.ndarray | float = 1.0) -> np.ndarray | float:
        return self.s0 * np.exp(-b * self.adc_mm2_s * adc_scale)


GRAY = Tissue(0.82, 110.0, 0.8e-3)
WHITE = Tissue(0.70, 80.0, 0.7e-3)
CSF = Tissue(1.00, 2000.0, 3.0e-3)
SCALP = Tissue(0.20, 60.0, 1.0e-3)  # faint, for fat is suppressed in diffusion MRI


@dataclass(frozen=True)
class Scanner:
    name: str
    slice_thickness_mm: float
    slices: tuple[int, int]
    dwi_dtype: type
    adc_dtype: type
    adc_per_mm2_s: float  # 1e3: its files hold ADC in 1e-3 mm²/s
    brightness: float  # of white matter at b = 1000


SCANNERS = (
    Scanner("SYNTHETIC-A", 5.0, (26, 30), np.float64, np.float64, 1e3, 250.0),
    Scanner("SYNTHETIC-B", 2.0, (64, 70), np.int16, np.int16, 1e6, 90.0),
    Scanner("SYNTHETIC-C", 5.0, (27, 30), np.int16, np.float32, 1.0, 800.0),
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


@dataclass(frozen=True)
class Scan:
    """A simulated scan on its native grid, with the truth behind it; ADC in mm²/s."""

    scanner: Scanner
    affine: np.ndarray
    dwi: np.ndarray
    adc_mm2_s: np.ndarray
    mask: np.ndarray
    gray: np.ndarray
    white: np.ndarray
    shine_through: np.ndarray


def rotation(degrees_xyz: np.ndarray) -> np.ndarray:
    return Rotation.from_euler("xyz", degrees_xyz, degrees=True).as_matrix()


def draw_grid(rng: np.random.Generator, scanner: Scanner) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine (RAS or LAS, half of them oblique) and shape of a grid around the head."""
    voxel_mm = rng.uniform(1.7, 2.1)
    rows = round(rng.uniform(200, 212) / voxel_mm)
    columns = rows if rng.random() < 0.5 else max(96, rows - int(rng.integers(3, 12)))
    shape = (columns, rows, int(rng.integers(*scanner.slices, endpoint=True)))
    oblique = rotation(rng.uniform([-10, -2, -3], [10, 2, 3])) if rng.random() < 0.5 else np.eye(3)
    left_right = rng.choice([-1, 1])
    affine = np.eye(4)
    affine[:3, :3] = oblique * [left_right * voxel_mm, voxel_mm, scanner.slice_thickness_mm]
    affine[:3, 3] = rng.uniform(-4, 4, 3) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine, shape


def template_voxels(
    rng: np.random.Generator, affine: np.ndarray, shape: tuple[int, int, int], subslices: int
) -> np.ndarray:
    """Where in the template each native subvoxel lies, after a random pose and smooth deformation."""
    k = (np.arange(shape[2] * subslices) + 0.5) / subslices - 0.5
    ijk = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), k, indexing="ij"), axis=-1)
    pose = np.eye(4)
    pose[:3, :3] = rotation(rng.uniform(-8, 8, 3)) * rng.normal(0.93, 0.025, 3)
    pose[:3, 3] = -pose[:3, :3] @ BRAIN_CENTRE_MM
    to_template = np.linalg.inv(anatomy.template().affine) @ np.linalg.inv(pose) @ affine
    voxels = np.moveaxis(nib.affines.apply_affine(to_template, ijk), -1, 0)
    shifts = [1.5 * anatomy.template().smooth_field(rng, scale_mm=20) for _ in range(3)]
    return voxels + [ndimage.map_coordinates(s, voxels, order=1, mode="nearest") for s in shifts]


def coil_bias(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A smooth gain, brighter toward the coil: of second order in each axis, some 20 % up and down."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    return np.exp(sum(rng.normal(0, 0.1) * x + rng.uniform(-0.05, 0.2) * x**2 for x in axes))


def rician(rng: np.random.Generator, signal: np.ndarray, sigma: float) -> np.ndarray:
    return np.hypot(signal + rng.normal(0, sigma, signal.shape), rng.normal(0, sigma, signal.shape))


def simulate_scan(index: int, seed: int) -> Scan:
    """The scan of patient ``index`` (from 0); SNR 15 to 30 in white matter at b = 1000."""
    rng = np.random.default_rng([seed, index])
    scanner, volume_ml, brain = SCANNERS[index % 3], anatomy.lesion_volume_ml(index, seed), anatomy.template()
    affine, shape = draw_grid(rng, scanner)
    subslices = 3 if scanner.slice_thickness_mm > 3 else 1
    voxels = template_voxels(rng, affine, shape, subslices)

    def sample(volume: np.ndarray, outside: float = 0.0) -> np.ndarray:
        values = ndimage.map_coordinates(volume, voxels, order=1, cval=outside)
        return values.reshape(*shape, subslices)

    inside, gray, white = sample(brain.brain), sample(brain.gray), sample(brain.white)
    # The template's tissue borders are blurred by averaging: sharpen, more so with age and atrophy.
    csf = np.clip((inside - gray - white - 0.1) / rng.uniform(0.45, 0.85), 0, inside)
    sharpen = (inside - csf) / np.maximum(gray + white, 0.1)
    gray, white = gray * sharpen, white * sharpen

    free_of_lesion, share, mask = brain.tissue, np.zeros_like(gray), np.zeros(shape, bool)
    if volume_ml:
        score, voxel_ml = anatomy.lesion_score(rng, volume_ml), abs(np.linalg.det(affine)) / 1000
        sampled = sample(score, anatomy.OUT_OF_REACH)
        threshold, share, mask = anatomy.grow_lesion(sampled, gray + white, volume_ml / voxel_ml)
        free_of_lesion = brain.tissue & (score < threshold - 10)
    shine_through = sample(anatomy.shine_through_map(rng, free_of_lesion)) * (1 - share)

    skull_stripped = rng.random() < 0.5
    scalp, fluid = (0.0, 0.0) if skull_stripped else map(sample, brain.head)
    texture = sample(brain.smooth_field(rng, scale_mm=4))
    t2_gain = 1 + 0.06 * texture + rng.uniform(0.6, 1.1) * shine_through
    t2_gain += rng.uniform(0.1, 0.4) * share
    adc_scale = rng.normal(1, 0.03) * (1 + 0.05 * texture + 0.2 * shine_through)
    infarct_adc = INFARCT_ADC_MM2_S * rng.normal(1, 0.07) * (1 + 0.1 * texture)
    bias, sigma = coil_bias(rng, shape), WHITE.signal(B_VALUE) / rng.uniform(15, 30)

    def acquire(b: float) -> np.ndarray:
        healthy = gray * GRAY.signal(b, adc_scale) + white * WHITE.signal(b, adc_scale)
        infarct = (gray * GRAY.s0 + white * WHITE.s0) * np.exp(-b * infarct_adc)
        signal = t2_gain * ((1 - share) * healthy + share * infarct)
        signal += (csf + fluid) * CSF.signal(b) + scalp * SCALP.signal(b)
        return rician(rng, bias * signal.mean(axis=-1), sigma)

    b0, dwi = acquire(0.0), acquire(B_VALUE)
    shown = inside.mean(axis=-1) >= (0.5 if skull_stripped else 0)
    adc = np.where(shown, np.clip(np.log(b0 / dwi) / B_VALUE, 0, 4e-3), 0)
    dwi = np.where(shown, dwi * scanner.brightness / WHITE.signal(B_VALUE), 0)
    gray, white, shine_through = (m.mean(axis=-1) for m in (gray, white, shine_through))
    return Scan(scanner, affine, dwi.round(), adc.round(6), mask, gray, white, shine_through)


def write_image(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """NIfTI whose bytes depend on the volume alone: no time stamp, no file name."""
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
    scanner, stem = scan.scanner, f"{name}_{session}"
    mask = scan.mask.astype(MASK_DTYPES[index % len(MASK_DTYPES)])
    dwi = scan.dwi.astype(scanner.dwi_dtype)
    adc = (scan.adc_mm2_s * scanner.adc_per_mm2_s).round(6).astype(scanner.adc_dtype)
    write_image(folder / name / session / "dwi" / f"{stem}_dwi.nii.gz", dwi, scan.affine)
    write_image(folder / name / session / "dwi" / f"{stem}_adc.nii.gz", adc, scan.affine)
    write_image(folder / "derivatives" / name / session / f"{stem}_msk.nii.gz", mask, scan.affine)
    volume_ml = float(scan.mask.sum() * abs(np.linalg.det(scan.affine)) / 1000)
    return DemoPatient(
        name=name,
        site=scanner.name,
        slice_thickness_mm=scanner.slice_thickness_mm,
        lesion_volume_asked_ml=round(anatomy.lesion_volume_ml(index, seed), 3),
        lesion_volume_ml=round(volume_ml, 3),
        lesion_components=ndimage.label(scan.mask, np.ones((3, 3, 3)))[1],
    )


def read_participants(folder: Path) -> list[DemoPatient]:
    with (folder / "participants.tsv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    kinds = [field.type for field in fields(DemoPatient)]
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
