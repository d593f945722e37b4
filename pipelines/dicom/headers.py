"""Read from the headers of DICOM files which series there are, and what each of their images shows.

The terms are those of the DICOM standard, PS3.3: MR Diffusion Macro (C.8.13.5.9) and Image Type (C.8.13.3.1.1). Vendors
keep a b-value in elements of their own in older files: Siemens (0019,100C), GE (0043,1039), Philips (2001,1003) and
United Imaging (0065,1009).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

from components.core.text import shown

PRIVATE_B_VALUES = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
    (0x0065, "Image Private Header", 0x09),
)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
"""pydicom would print values that break a rule of the standard, and with them what a header holds."""
GE_OFFSET = 10**9
"""GE adds this to the b-values of some scans."""
IMAGES = {MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage}
LARGEST_B = 100_000
ADC_CODE = "113041"
"""Code of DICOM (DCM) for a derivation or a quantity that is the apparent diffusion coefficient."""
DERIVED_TYPES = {"FA", "TENSOR", "EADC", "EXP_ADC", "EXPONENTIAL", "RA", "VR", "MPR", "MOSAIC", "LOCALIZER"}
"""Values of Image Type of maps and images that are neither a trace DWI nor an ADC map; a mosaic is refused later."""
TRACE_TYPES = {"TRACE", "TRACEW", "ISOTROPIC"}
ADC_WORDS, OTHER_WORDS = {"adc", "apparent"}, {"exponential", "eadc", "exp"}
"""Words of a Series Description: GE names its maps only there."""


@dataclass(frozen=True)
class Plane:
    """One image of a series: a file, or a frame of a multi-frame file.

    frame: number of the frame, from 0; None for a file with one image. position, orientation: as in Image Position and
    Image Orientation (Patient), millimetres in LPS. spacing: between rows and between columns, millimetres. size: rows
    and columns. kind: "adc", "dwi" (also without diffusion weighting), "mosaic" or "other". b_value: s/mm², None if the
    header has none. directed: whether it shows one direction of diffusion; None if the header does not say.
    """

    path: Path
    frame: int | None
    sop_uid: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    size: tuple[int, int]
    kind: str
    b_value: float | None
    directed: bool | None


@dataclass
class Series:
    """The images of one series. `patient`, the Patient ID or else the name, is only compared: it is never written."""

    uid: str
    number: str
    description: str
    study: str
    patient: str
    planes: list[Plane] = field(default_factory=list)

    @property
    def named(self) -> str:
        """Return how messages name the series: number and description."""
        return f"series {self.number or self.uid}" + (f" ({self.description})" if self.description else "")

    @cached_property
    def files(self) -> set[Path]:
        """The files of the series."""
        return {plane.path for plane in self.planes}


def read_series(paths: Iterable[Path]) -> tuple[list[Series], list[Path], list[Path]]:
    """Return the series of MR images among DICOM files, the files that cannot be read, and those of other kinds."""
    series: dict[tuple, Series] = {}
    broken: list[Path] = []
    others: list[Path] = []
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if header.Modality != "MR" or header.SOPClassUID not in IMAGES:
                others.append(path)
                continue
            one = Series(
                str(header.SeriesInstanceUID), _text(header, "SeriesNumber"), _text(header, "SeriesDescription"),
                str(header.StudyInstanceUID), str(header.get("PatientID") or header.get("PatientName") or ""),
            )  # fmt: skip
            planes = _planes(path, header)
        except Exception:  # the content is a stranger's: pydicom raises errors of many kinds for it
            broken.append(path)
            continue
        series.setdefault((one.uid, one.study, one.patient), one).planes.extend(planes)
    return list(series.values()), broken, others


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else shown(str(value), 64)


def _planes(path: Path, header: Dataset) -> list[Plane]:
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [_plane(path, None, header, [header])]
    shared = list(header.get("SharedFunctionalGroupsSequence", []))
    return [
        _plane(path, number, header, [own, *shared, header])
        for number, own in enumerate(header.PerFrameFunctionalGroupsSequence)
    ]


def _plane(path: Path, frame: int | None, header: Dataset, groups: list[Dataset]) -> Plane:
    def numbers(sequence: str, keyword: str) -> tuple[float, ...]:
        return tuple(float(v) for v in _find(groups, sequence, keyword) or ())

    types = {str(v).upper() for v in (header.get("ImageType") or ())}
    types |= {str(v).upper() for v in (_find(groups, "MRImageFrameTypeSequence", "FrameType") or ())}
    b_value = _b_value(groups, header)
    return Plane(
        path, frame, str(header.SOPInstanceUID),
        numbers("PlanePositionSequence", "ImagePositionPatient"),
        numbers("PlaneOrientationSequence", "ImageOrientationPatient"),
        numbers("PixelMeasuresSequence", "PixelSpacing"),
        (int(header.Rows), int(header.Columns)), _kind(types, header, groups, b_value), b_value,
        _directed(types, groups, header),
    )  # fmt: skip


def _find(groups: list[Dataset], sequence: str, keyword: str) -> Any:
    """Return an attribute of an image: from a sequence in the first group that has it, or from a group itself."""
    for group in groups:
        for item in (*(group.get(sequence) or ()), group):
            if item.get(keyword) is not None:
                return item.get(keyword)
    return None


def _kind(types: set[str], header: Dataset, groups: list[Dataset], b_value: float | None) -> str:
    words = set(re.split(r"[^a-z0-9]+", _text(header, "SeriesDescription").lower()))
    if "MOSAIC" in types:
        return "mosaic"
    if types & DERIVED_TYPES:
        return "other"
    if "ADC" in types or ADC_CODE in _codes(groups):
        return "adc"
    if "DERIVED" in types and words & OTHER_WORDS:
        return "other"
    if "DERIVED" in types and words & ADC_WORDS and not types & TRACE_TYPES:
        return "adc"
    return "other" if b_value is None else "dwi"


def _codes(groups: list[Dataset]) -> set[str]:
    """Return the codes that say how an image was derived, and what its values are."""
    found = set()
    for group in groups:
        derivations = [
            *(group.get("DerivationCodeSequence") or ()),
            *(c for d in group.get("DerivationImageSequence") or () for c in d.get("DerivationCodeSequence") or ()),
        ]
        quantities = [
            code
            for mapping in group.get("RealWorldValueMappingSequence") or ()
            for quantity in mapping.get("QuantityDefinitionSequence") or ()
            for code in quantity.get("ConceptCodeSequence") or ()
        ]
        found |= {str(code.get("CodeValue", "")) for code in (*derivations, *quantities)}
    return found


def _b_value(groups: list[Dataset], header: Dataset) -> float | None:
    value = _find(groups, "MRDiffusionSequence", "DiffusionBValue")
    for group, creator, element in PRIVATE_B_VALUES:
        value = _private(header, group, creator, element) if value is None else value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    number = number % GE_OFFSET if number >= GE_OFFSET else number
    return number if math.isfinite(number) and 0 <= number <= LARGEST_B else None


def _private(header: Dataset, group: int, creator: str, element: int) -> Any:
    """Return the value of a vendor's element, the first if there are several; None if it is not there."""
    try:
        value = header.private_block(group, creator)[element].value
    except KeyError:
        return None
    if isinstance(value, bytes):  # its type was lost on the way
        value = value.decode("ascii", "replace").strip("\0 ").split("\\")
    return (value[0] if len(value) else None) if isinstance(value, list | pydicom.multival.MultiValue) else value


def _directed(types: set[str], groups: list[Dataset], header: Dataset) -> bool | None:
    value = str(_find(groups, "MRDiffusionSequence", "DiffusionDirectionality") or "").upper()
    value = value or str(_private(header, 0x0019, "SIEMENS MR HEADER", 0x0D) or "").upper()
    if value in ("DIRECTIONAL", "BMATRIX"):
        return True
    if value == "ISOTROPIC" or types & TRACE_TYPES:
        return False
    if philips := str(_private(header, 0x2001, "Philips Imaging DD 001", 0x04) or "").strip().upper():
        return philips != "I"
    gradient = next((g for d in _sequence(groups) if (g := d.get("DiffusionGradientOrientation"))), None)
    gradient = gradient or [_private(header, 0x0019, "GEMS_ACQU_01", element) or 0 for element in (0xBB, 0xBC, 0xBD)]
    return True if any(float(v) for v in gradient) else None


def _sequence(groups: list[Dataset]) -> list[Dataset]:
    found = _find(groups, "MRDiffusionSequence", "DiffusionGradientDirectionSequence") or []
    return [*found, *groups]
