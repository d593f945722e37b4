"""Convert the volumes that were chosen of a DICOM study to NIfTI, with dcm2niix, and check where it puts them.

dcm2niix sees only the images of one volume, under neutral names. Of the header the NIfTI file keeps the geometry.
"""

import logging
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pydicom
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from components.core.text import shown
from components.scans.b_value import SIDECAR, as_file
from components.scans.geometry import AFFINE_TOLERANCE, BadVolume, largest_distance
from components.scans.volumes import MAX_VOXELS, read
from pipelines.dicom.choose import Chosen, Volume
from pipelines.dicom.headers import Plane
from pipelines.strip_header import stripped

SECONDS, LEAST_SAME = 300, 0.99
PHILIPS_SCALE = 0x2005100E
"""Scale slope SS of Philips: (stored * slope + intercept) / (slope * SS) compares series; it is no unit of an ADC."""
SAME_VALUE = 1e-3
"""How far a value of an ADC map may be from that of its header, as a share of that."""
PIXEL_FIELDS = (
    "SpecificCharacterSet", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType",
)  # fmt: skip
DWI, ADC, B0, SIDECAR_NAME = "dwi.nii.gz", "adc.nii.gz", "b0.nii.gz", f"dwi{SIDECAR}"


@dataclass(frozen=True)
class Converted:
    """The files of a converted study, by name, and what was taken: DWI always, ADC or B0 if there is one."""

    chosen: Chosen
    files: dict[str, bytes]


def convert(chosen: Chosen) -> Converted:
    """Return the volumes of a study as NIfTI files. Beside a b0 image the b-value of the DWI is a JSON sidecar.

    Raises:
        BadVolume: dcm2niix cannot convert a volume, or puts it elsewhere than its headers say.
    """
    chosen = with_comparable_b0(chosen)
    volumes = {DWI: chosen.dwi, ADC: chosen.adc, B0: chosen.b0}
    files = {name: _nifti(volume) for name, volume in volumes.items() if volume}
    if chosen.b0:
        files[SIDECAR_NAME] = as_file(SIDECAR, chosen.dwi.b_value)
    return Converted(chosen, files)


def with_comparable_b0(chosen: Chosen) -> Chosen:
    """Return what was chosen, without a b0 image whose values are scaled otherwise than the DWI's; a note says so."""
    if not chosen.b0 or _comparable(chosen.dwi, chosen.b0):
        return chosen
    note = f"the b0 image was left out: the values of {chosen.b0.series.named} are scaled otherwise than the DWI's"
    return replace(chosen, b0=None, notes=(*chosen.notes, note))


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
    shift = largest_distance(placed, expected, turned.shape)
    if turned.shape != (columns, rows, len(volume.planes)) or shift > AFFINE_TOLERANCE * min(
        nib.affines.voxel_sizes(expected)
    ):
        raise BadVolume(
            f"{volume.series.named}: dcm2niix made {turned.shape} voxels, {shift:.2f} mm away, of "
            f"{(columns, rows, len(volume.planes))} in the headers. Convert it yourself, and give the .nii.gz file"
        )
    return turned.transpose(2, 1, 0)


def _comparable(dwi: Volume, b0: Volume) -> bool:
    """Return whether the ratio of the converted values is that of the signals.

    Philips scales each series on its own. dcm2niix undoes that where a file has PHILIPS_SCALE; of a multi-frame file we
    hand on the slope alone.
    """
    slopes, undone, is_philips = set(), set(), False
    for volume in (dwi, b0):
        headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in {p.path for p in volume.planes}}
        for plane in volume.planes:
            header = headers[plane.path]
            slopes.add(_scale(header, plane.frame).get("RescaleSlope", 1))
            undone.add(plane.frame is None and PHILIPS_SCALE in header)
            is_philips |= undone == {True} or "philips" in str(header.get("Manufacturer", "")).lower()
    return not is_philips or undone == {True} or (undone == {False} and len(slopes) == 1)


def _scale(whole: pydicom.Dataset, frame: int | None) -> pydicom.Dataset:
    """Return the item of a header with slope and intercept of an image."""
    if frame is None:
        return whole
    groups = (whole.PerFrameFunctionalGroupsSequence[frame], *whole.get("SharedFunctionalGroupsSequence", []))
    return next((scale for group in groups for scale in group.get("PixelValueTransformationSequence", [])), whole)


def _nifti(volume: Volume) -> bytes:
    rows, columns = volume.planes[0].size
    if rows * columns * len(volume.planes) > MAX_VOXELS:
        raise BadVolume(f"{volume.named}: not the size of a brain scan")
    with tempfile.TemporaryDirectory() as temporary:
        images, results = Path(temporary) / "images", Path(temporary) / "results"
        images.mkdir()
        results.mkdir()
        files = _gather(volume, images)
        path = _convert_folder(images, results, volume)
        data, geometry = read(path)
        if geometry.affine is None:
            raise BadVolume(f"{volume.named}: dcm2niix gave it no place in space")
        _require_same_pixels(volume, files, in_planes(geometry.native(data), geometry.affine, volume))
        return stripped(path)


def _convert_folder(images: Path, results: Path, volume: Volume) -> Path:
    """Run dcm2niix without a person's own defaults (-g i) and a sidecar (-b n), on the grid of the images (-x i).

    An ADC map keeps the values of its headers (-p n); see PHILIPS_SCALE.
    """
    philips = "n" if volume.kind == "ADC" else "y"
    options = ["-g", "i", "-b", "n", "-z", "i", "-x", "i", "-p", philips, "-f", "scan"]
    command = [dcm2niix.bin, *options, "-o", str(results), str(images)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise BadVolume(f"{volume.named}: dcm2niix needed more than {SECONDS} seconds. Give it as NIfTI") from None
    found = sorted(results.glob("*.nii.gz"))
    if len(found) == 1 and done.returncode == 0:
        return found[0]
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Warning"))]
    message = shown(lines[0].replace(str(images), ""), 200) if lines else f"exit code {done.returncode}"
    raise BadVolume(
        f"{volume.named}: dcm2niix made {len(found)} volumes, not one ({message}). Its files may be damaged, or in "
        "a compression that dcm2niix cannot read: export them uncompressed, or give NIfTI"
    )


def _gather(volume: Volume, folder: Path) -> list[Path]:
    """Put the images of a volume into a folder, one file each, and return the files in the order of the planes.

    Raises:
        BadVolume: a multi-frame file is damaged.
    """
    files = [folder / f"{number:05}.dcm" for number in range(len(volume.planes))]
    whole: dict[Path, pydicom.Dataset] = {}
    for number, (plane, file) in enumerate(zip(volume.planes, files, strict=True)):
        if plane.frame is None:
            file.symlink_to(plane.path.resolve())
            continue
        try:
            if plane.path not in whole:
                whole = {plane.path: pydicom.dcmread(plane.path)}
            _frame(whole[plane.path], plane, number).save_as(file, enforce_file_format=True)
        except Exception as error:  # pydicom raises errors of many kinds for a damaged file
            raise BadVolume(
                f"{volume.named}: {shown(plane.path.name)} is damaged or cut short ({shown(str(error), 100)}). "
                "Export it again"
            ) from None
    return files


def _frame(whole: pydicom.Dataset, plane: Plane, number: int) -> pydicom.Dataset:
    """Return a frame of a multi-frame file as a file of its own, with what places and scales its pixels and no more.

    dcm2niix 1.0.20260724 puts the frames of a compressed multi-frame file in the wrong order if they run against the
    normal of the images. It has no trouble with single files.

    Raises:
        ValueError: the pixels are cut short.
    """
    image, frame = pydicom.Dataset(), plane.frame or 0
    for keyword in PIXEL_FIELDS:
        if keyword in whole:
            image[keyword] = whole[keyword]
    scale = _scale(whole, frame)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        if keyword in scale:
            image[keyword] = scale[keyword]
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, generate_uid()
    image.StudyInstanceUID = image.SeriesInstanceUID = image.FrameOfReferenceUID = "2.25.1"
    image.Modality, image.SeriesNumber, image.InstanceNumber = "MR", 1, number + 1
    image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing = (
        [DSfloat(number, auto_format=True) for number in numbers]
        for numbers in (plane.position, plane.orientation, plane.spacing)
    )
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = whole.file_meta.TransferSyntaxUID
    if whole.file_meta.TransferSyntaxUID.is_compressed:
        image.PixelData = encapsulate([get_frame(whole.PixelData, frame, number_of_frames=int(whole.NumberOfFrames))])
        image["PixelData"].VR = "OB"
        return image
    size = int(whole.Rows) * int(whole.Columns) * int(whole.BitsAllocated) // 8
    image.PixelData = whole.PixelData[frame * size : (frame + 1) * size]
    image["PixelData"].VR = "OW"
    if len(image.PixelData) < size:
        raise ValueError("the header promises more frames")
    return image


def _require_same_pixels(volume: Volume, files: list[Path], planes: np.ndarray) -> None:
    """Check with pydicom that the first, a middle and the last plane hold the pixels of their images.

    The values of an ADC map must be those of its headers, others may be scaled. An image that pydicom cannot unpack is
    not checked.

    Raises:
        BadVolume: they hold those of others, or other values.
    """
    for number in {0, len(files) // 2, len(files) - 1}:
        try:
            header = pydicom.dcmread(files[number])
            pixels = header.pixel_array.astype(np.float64)
        except Exception as error:
            logging.debug("%s was not compared with its conversion: %s", volume.named, error)
            continue
        if volume.kind == "ADC" and not _has_values_of(header, pixels, planes[number]):
            raise BadVolume(
                f"{volume.named}: dcm2niix gave it other values than its headers (slope and intercept). Convert it "
                "yourself, check the unit, and give the .nii.gz file"
            )
        if pixels.std() == 0:
            continue
        same = np.corrcoef(pixels.ravel(), planes[number].ravel())[0, 1] if planes[number].std() else 0
        if not same > LEAST_SAME:
            raise BadVolume(
                f"{volume.named}: dcm2niix put its images in another order. Convert it yourself, and give the .nii.gz "
                "file"
            )


def _has_values_of(header: pydicom.Dataset, pixels: np.ndarray, plane: np.ndarray) -> bool:
    """Return whether a plane holds the rescaled pixels of its image, or those of a real-world value mapping."""
    scales = [(header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0))]
    for mapping in header.get("RealWorldValueMappingSequence", []):
        scales.append((mapping.get("RealWorldValueSlope", 1), mapping.get("RealWorldValueIntercept", 0)))
    for slope, intercept in scales:
        values = pixels * float(slope) + float(intercept)
        if np.allclose(plane, values, rtol=SAME_VALUE, atol=SAME_VALUE * abs(float(slope))):
            return True
    return False
