"""Write synthetic DICOM studies: a volume as the series that a scanner writes."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    generate_uid,
)

PLANTED = ["Somchai^Jaidee", "HN-4471-9035", "19510203", "Ward7Bed12", "Dr^Malee^Thongchai", "ACC-88213-X"]
"""Identifiers that stand in every header."""
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Study:
    """Whose images these are. The identifiers are planted."""

    uid: str = field(default_factory=generate_uid)
    frame_of_reference: str = field(default_factory=generate_uid)
    patient: str = PLANTED[0]
    patient_id: str = PLANTED[1]

    def header(self, sop_class: str) -> Dataset:
        """Return a header with the patient and the study, and identifiers in all kinds of places."""
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = self.patient, self.patient_id, PLANTED[2]
        ds.PatientSex = "M"
        ds.OtherPatientIDsSequence = Sequence([_item(PatientID=PLANTED[1], TypeOfPatientID="TEXT")])
        ds.StudyInstanceUID, ds.StudyDate, ds.StudyTime, ds.StudyID = self.uid, "20260203", "101112", "1"
        ds.AccessionNumber, ds.ReferringPhysicianName = PLANTED[5], PLANTED[4]
        ds.InstitutionalDepartmentName, ds.PatientComments = PLANTED[3], f"{PLANTED[0]} {PLANTED[3]}"
        ds.ImageComments, ds.RequestAttributesSequence = PLANTED[1], Sequence([_item(RequestedProcedureID=PLANTED[5])])
        ds.Manufacturer, ds.ManufacturerModelName, ds.DeviceSerialNumber = "SIEMENS", "Synthetic", "1"
        ds.SoftwareVersions, ds.Modality, ds.MagneticFieldStrength = "1", "MR", "1.5"
        ds.ProtocolName = f"diffusion {PLANTED[3]}"
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "EP", "SK", "", "2D"
        ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength, ds.PatientPosition = "80", "4000", "1", "HFS"
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator, ds.Laterality = self.frame_of_reference, "", ""
        block = ds.private_block(0x0029, "PLANTED BY A TEST", create=True)
        block.add_new(0x10, "LO", PLANTED[0])
        return ds


@dataclass
class SeriesOptions:
    """How a series is written. kind: "trace", "direction", "b0", "adc"; types: Image Type; vendor: where b stands."""

    number: int = 4
    kind: str = "trace"
    b_value: float = 1000
    description: str = "ep2d_diff"
    uid: str = field(default_factory=generate_uid)
    types: tuple[str, ...] | None = None
    vendor: str = "standard"
    says_direction: bool = True
    direction: tuple[float, float, float] = (1.0, 0.0, 0.0)
    syntax: str = ExplicitVRLittleEndian
    without: tuple[int, ...] = ()
    slope: float = 1
    intercept: float = 0
    philips_scale: float = 0

    @property
    def image_type(self) -> list[str]:
        usual = {
            "trace": ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW" if self.says_direction else "NONE"),
            "adc": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC"),
        }
        return list(self.types or usual.get(self.kind, ("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE")))


def write_series(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    study: Study,
    options: SeriesOptions | None = None,
    **more: Any,
) -> list[Path]:
    """Write a volume (columns, rows, planes) of unsigned 16-bit numbers as a file for each plane; return the files.

    affine: from these axes to RAS+ millimetres, as in a NIfTI file. The files have no ending, and neutral names.
    """
    options = options or SeriesOptions(**more)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for plane in set(range(voxels.shape[2])) - set(options.without):
        ds = study.header(MRImageStorage)
        _describe(ds, options)
        ds.ImageType, ds.InstanceNumber = options.image_type, plane + 1
        position, orientation, spacing, thickness = _place(affine, plane)
        ds.ImagePositionPatient, ds.ImageOrientationPatient = position, orientation
        ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = spacing, thickness, thickness
        if (options.slope, options.intercept) != (1, 0):
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = options.slope, options.intercept, "US"
        if options.philips_scale:
            ds.Manufacturer = "Philips Medical Systems"
            block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
            block.add_new(0x0E, "FL", options.philips_scale)
        _diffusion(ds, options, ds)
        paths.append(folder / f"IM{options.number:03}{plane:04}")
        _save(ds, [voxels[:, :, plane].T], options.syntax, paths[-1])
    return paths


def write_enhanced(
    path: Path, volumes: list[tuple[np.ndarray, SeriesOptions]], affine: np.ndarray, study: Study
) -> Path:
    """Write volumes of one grid as one multi-frame file; series, number and syntax are those of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = volumes[0][1]
    ds = study.header(EnhancedMRImageStorage)
    _describe(ds, first)
    ds.InstanceNumber, ds.ImageType = 1, ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
    ds.ContentDate, ds.ContentTime, ds.AcquisitionDateTime = "20260203", "101112", "20260203101112"
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    dimension = generate_uid()
    ds.DimensionOrganizationSequence = Sequence([_item(DimensionOrganizationUID=dimension)])
    ds.DimensionIndexSequence = Sequence(
        [
            _item(DimensionOrganizationUID=dimension, DimensionIndexPointer=pointer, FunctionalGroupPointer=group)
            for pointer, group in ((0x00209057, 0x00209111), (0x00189087, 0x00189117))
        ]
    )
    _, orientation, spacing, thickness = _place(affine, 0)
    ds.SharedFunctionalGroupsSequence = Sequence(
        [
            _item(
                PlaneOrientationSequence=Sequence([_item(ImageOrientationPatient=orientation)]),
                PixelMeasuresSequence=Sequence(
                    [_item(PixelSpacing=spacing, SliceThickness=thickness, SpacingBetweenSlices=thickness)]
                ),
            )
        ]
    )
    frames, groups = [], []
    for number, (voxels, options) in enumerate(volumes):
        for plane in range(voxels.shape[2]):
            diffusion, content = Dataset(), Dataset()
            _diffusion(diffusion, options, ds)
            content.StackID, content.InStackPositionNumber = "1", plane + 1
            content.DimensionIndexValues, content.TemporalPositionIndex = [plane + 1, number + 1], number + 1
            groups.append(
                _item(
                    PlanePositionSequence=Sequence([_item(ImagePositionPatient=_place(affine, plane)[0])]),
                    FrameContentSequence=Sequence([content]),
                    MRImageFrameTypeSequence=Sequence([_item(FrameType=options.image_type)]),
                    MRDiffusionSequence=Sequence([diffusion]),
                    PixelValueTransformationSequence=Sequence(
                        [_item(RescaleSlope=options.slope, RescaleIntercept=options.intercept, RescaleType="US")]
                    ),
                )
            )
            frames.append(voxels[:, :, plane].T)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.NumberOfFrames = len(frames)
    _save(ds, frames, first.syntax, path)
    return path


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _place(affine: np.ndarray, plane: int) -> tuple[list[float], list[float], list[float], float]:
    """Return position, orientation, spacing and the distance of the planes, as a header has them."""
    lps = TO_LPS @ affine
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    position = lps[:3, 3] + plane * lps[:3, 2]
    orientation = [*(lps[:3, 0] / sides[0]), *(lps[:3, 1] / sides[1])]
    numbers = [[_ds(v) for v in values] for values in (position, orientation, (sides[1], sides[0]))]
    return numbers[0], numbers[1], numbers[2], _ds(sides[2])


def _ds(value: float) -> float:
    return float(f"{value:.9g}"[:16])


def _describe(ds: Dataset, options: SeriesOptions) -> None:
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.SeriesDescription = options.uid, options.number, options.description
    ds.AcquisitionNumber = 1


def _diffusion(ds: Dataset, options: SeriesOptions, whole: Dataset) -> None:
    """Write b-value and direction where the vendor does; an ADC map has none."""
    if options.kind == "adc":
        return
    b_value = 0 if options.kind == "b0" else options.b_value
    if options.vendor == "standard":
        ds.DiffusionBValue = float(b_value)
        if options.says_direction:
            said = {"trace": "ISOTROPIC", "direction": "DIRECTIONAL", "b0": "NONE"}
            ds.DiffusionDirectionality = said[options.kind]
    elif options.vendor == "siemens":
        block = whole.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", str(int(b_value)))
    elif options.vendor == "ge":
        whole.Manufacturer = "GE MEDICAL SYSTEMS"
        block = whole.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [str(int(b_value) + (10**9 if b_value else 0)), "0", "0", "0"])
    elif options.vendor == "philips":
        whole.Manufacturer = "Philips Medical Systems"
        block = whole.private_block(0x2001, "Philips Imaging DD 001", create=True)
        block.add_new(0x03, "FL", float(b_value))
        if options.says_direction:
            block.add_new(0x04, "CS", {"trace": "I", "direction": "O", "b0": "N"}[options.kind])
    if options.kind == "direction" and options.says_direction and options.vendor == "standard":
        ds.DiffusionGradientDirectionSequence = Sequence([_item(DiffusionGradientOrientation=list(options.direction))])


def _save(ds: Dataset, frames: list[np.ndarray], syntax: str, path: Path) -> None:
    ds.Rows, ds.Columns = frames[0].shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelData = np.stack(frames).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    if syntax == JPEGLSLossless:
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
    elif syntax == JPEG2000Lossless:
        ds.PixelData = encapsulate([_jpeg_2000(frame) for frame in frames])
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def _jpeg_2000(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame.astype("<u2")).save(out, "JPEG2000", irreversible=False, no_jp2=True)
    return out.getvalue()
