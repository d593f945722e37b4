"""Convert the volumes that were chosen of a DICOM study to NIfTI, with dcm2niix, and check where it puts them.

dcm2niix sees only the images of one volume, under neutral names. Of the header the NIfTI file keeps the geometry.
"""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pydicom
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from pydicom.encaps import encapsulate, generate_frames

from components.core.text import shown
from components.scans.b_value import SIDECAR, as_file
from components.scans.geometry import AFFINE_TOLERANCE, BadVolume
from components.scans.volumes import MAX_VOXELS, read
from pipelines.dicom.choose import Chosen, Volume
from pipelines.strip_header import stripped

SECONDS = 300
DWI, ADC, B0, SIDECAR_NAME = "dwi.nii.gz", "adc.nii.gz", "b0.nii.gz", f"dwi{SIDECAR}"


@dataclass(frozen=True)
class Converted:
    """The files of a converted study, by name, and what was taken: DWI always, ADC or B0 if there is one."""

    chosen: Chosen
    files: dict[str, bytes]


def convert(chosen: Chosen) -> Converted:
    """Return the volumes of a study as NIfTI files, and the b-value of the DWI as a JSON sidecar.

    Raises:
        BadVolume: dcm2niix cannot convert a volume, or puts it elsewhere than its headers say.
    """
    volumes = {DWI: chosen.dwi, ADC: chosen.adc, B0: chosen.b0}
    files = {name: _nifti(volume) for name, volume in volumes.items() if volume}
    files[SIDECAR_NAME] = as_file(SIDECAR, chosen.dwi.b_value)
    return Converted(chosen, files)


def in_planes(data: np.ndarray, affine: np.ndarray, volume: Volume) -> np.ndarray:
    """Turn an array with an affine, both as in a NIfTI file, to (planes, rows, columns) of the DICOM images.

    Raises:
        BadVolume: the array is not on the grid of the images.
    """
    expected, (rows, columns) = volume.affine, volume.planes[0].size
    data = data.reshape(data.shape[:3])
    turn = io_orientation(np.linalg.inv(expected) @ affine)
    if np.isnan(turn).any():
        raise BadVolume(f"{volume.series.named}: the converted file is not on the grid of the images")
    turned, placed = apply_orientation(data, turn), affine @ inv_ornt_aff(turn, data.shape)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in turned.shape])).reshape(3, -1)
    shift = np.linalg.norm((placed - expected)[:3, :3] @ corners + (placed - expected)[:3, 3:], axis=0).max()
    if turned.shape != (columns, rows, len(volume.planes)) or shift > AFFINE_TOLERANCE * min(
        nib.affines.voxel_sizes(expected)
    ):
        raise BadVolume(
            f"{volume.series.named}: dcm2niix made {turned.shape} voxels, {shift:.2f} mm away, of "
            f"{(columns, rows, len(volume.planes))} in the headers. Convert it yourself, and give the .nii.gz file"
        )
    return turned.transpose(2, 1, 0)


def _nifti(volume: Volume) -> bytes:
    rows, columns = volume.planes[0].size
    if rows * columns * len(volume.planes) > MAX_VOXELS:
        raise BadVolume(f"{volume.named}: not the size of a brain scan")
    with tempfile.TemporaryDirectory() as temporary:
        images, results = Path(temporary) / "images", Path(temporary) / "results"
        images.mkdir()
        results.mkdir()
        _gather(volume, images)
        path = _convert_folder(images, results, volume)
        data, geometry = read(path)
        if geometry.affine is None:
            raise BadVolume(f"{volume.named}: dcm2niix gave it no place in space")
        in_planes(geometry.native(data), geometry.affine, volume)
        return stripped(path)


def _convert_folder(images: Path, results: Path, volume: Volume) -> Path:
    """Run dcm2niix: -x i keeps the grid of the images, -b n writes no sidecar, -z i packs without another program."""
    command = [dcm2niix.bin, "-b", "n", "-z", "i", "-x", "i", "-f", "scan", "-o", str(results), str(images)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise BadVolume(f"{volume.named}: dcm2niix needed more than {SECONDS} seconds. Give it as NIfTI") from None
    found = sorted(results.glob("*.nii.gz"))
    if len(found) == 1 and done.returncode == 0:
        return found[0]
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Warning"))]
    said = shown(lines[0].replace(str(images), ""), 200) if lines else f"exit code {done.returncode}"
    raise BadVolume(
        f"{volume.named}: dcm2niix made {len(found)} volumes of it, not one ({said}). Its files may be damaged, or in "
        "a compression that dcm2niix cannot read: export them uncompressed, or give NIfTI"
    )


def _gather(volume: Volume, folder: Path) -> None:
    """Put the images of a volume into a folder: files as links, frames as a multi-frame file without the others."""
    frames: dict[Path, list[int]] = {}
    for number, plane in enumerate(volume.planes):
        if plane.frame is None:
            (folder / f"{number:05}.dcm").symlink_to(plane.path.resolve())
        else:
            frames.setdefault(plane.path, []).append(plane.frame)
    for number, (path, wanted) in enumerate(frames.items()):
        _with_frames(path, sorted(wanted)).save_as(folder / f"{number:05}.dcm")


def _with_frames(path: Path, wanted: list[int]) -> pydicom.Dataset:
    """Return a multi-frame file with some of its frames.

    Raises:
        BadVolume: its pixels are cut short.
    """
    image = pydicom.dcmread(path)
    total = int(image.NumberOfFrames)
    if image.file_meta.TransferSyntaxUID.is_compressed:
        packed = list(generate_frames(image.PixelData, number_of_frames=total))
        image.PixelData = encapsulate([packed[n] for n in wanted])
        image["PixelData"].VR = "OB"
    else:
        size = int(image.Rows) * int(image.Columns) * int(image.SamplesPerPixel) * int(image.BitsAllocated) // 8
        if len(image.PixelData) < size * total:
            raise BadVolume(f"{path.name} is cut short: its header promises {total} frames. Export it again")
        image.PixelData = b"".join(image.PixelData[n * size : (n + 1) * size] for n in wanted)
    groups = image.PerFrameFunctionalGroupsSequence
    image.PerFrameFunctionalGroupsSequence = pydicom.Sequence([groups[n] for n in wanted])
    image.NumberOfFrames = len(wanted)
    return image
