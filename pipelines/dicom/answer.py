"""Write the answer to a DICOM study as DICOM: a segmentation (SEG), and pictures with the outline (secondary capture).

Both have the patient and the study of their source, so that an archive files them there. They refer to the images that
were segmented, say "research use only", and name the model and its version.
"""

import hashlib
import io
import json
import logging
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from scipy import ndimage

from components.core.text import shown
from components.scans.geometry import BadVolume
from components.scans.volumes import read_nifti_bytes
from pipelines.dicom.choose import Chosen, Volume
from pipelines.dicom.convert import in_planes

logging.getLogger("highdicom").setLevel(logging.WARNING)  # it logs each attribute that it copies
MAKER = "dwi-stroke"
"""Manufacturer of the files: by it a later call knows them."""
NOTICE, OF_SYNTHETIC = "RESEARCH USE ONLY", "RESEARCH USE ONLY. Model of SYNTHETIC scans only"
NEEDS_REVIEW, REVIEW_UNKNOWN = "NEEDS REVIEW", "REVIEW UNKNOWN"
FORMAT = "1"
"""Raise it when the files change in any other way: then they get other UIDs."""
DIGEST = (0x0099, "DWI-STROKE ANSWER", 0x01)
"""Private element with the SHA-256 of the pixels as they were written: by it a later call knows a changed file."""
SEGMENTATION, OUTLINE = "segmentation.dcm", "outline"
SEG_NUMBER, OUTLINE_NUMBER = 9001, 9002
"""Series numbers, above those of scanners."""
SIDE, BRIGHTEST, MOST_SHOWN = 512, 99.5, 50
"""Least width of a picture, pixels; the percentile of the intensities that is white; characters that fit in a line."""
COLOUR, WHITE = (249, 115, 22), (255, 255, 255)
MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber",
)  # fmt: skip
"""Attributes that highdicom copies, and that an anonymized study often lacks. The standard lets them be empty."""
MOST_TEXT, MOST_LONG_TEXT = 64, 1024
"""Length of a text in DICOM: LO and ST."""


@dataclass(frozen=True)
class Label:
    """What the files say about themselves. warning: "", NEEDS_REVIEW or REVIEW_UNKNOWN. reasons: of a review."""

    model: str
    notice: str
    warning: str
    reasons: str

    @staticmethod
    def of(model: str, synthetic: bool, review: str | None) -> "Label":
        warning = REVIEW_UNKNOWN if review is None else NEEDS_REVIEW if review else ""
        reasons = unicodedata.normalize("NFKC", review or "").encode("ascii", "replace").decode().replace("\\", "/")
        return Label(model, OF_SYNTHETIC if synthetic else NOTICE, warning, " ".join(reasons.split()))

    @property
    def review(self) -> str:
        """The warning with its reasons, "" if there is nothing to warn of."""
        return ": ".join(filter(None, (self.warning, self.reasons)))

    @property
    def text(self) -> str:
        """The warning, the notice and the reasons; what matters most comes first, as readers cut it."""
        return ": ".join(filter(None, (". ".join(filter(None, (self.warning, self.notice))), self.reasons)))

    @property
    def lines(self) -> list[str]:
        """The lines of a picture."""
        return [*filter(None, [self.review]), self.notice, " ".join(named(self.model))]

    def series(self, what: str) -> str:
        """Return the Series Description."""
        name, version = named(self.model)
        return f"{', '.join(filter(None, (NOTICE, self.warning)))}: {what}, {name} {version}"[:MOST_TEXT]


def answer(
    study: Chosen, scan: bytes, mask: bytes, model: str, synthetic: bool = False, review: str | None = ""
) -> dict[str, bytes]:
    """Return the files of the answer, by name: SEGMENTATION, and OUTLINE/0001.dcm and so on, one for each slice.

    scan, mask: the NIfTI files of the DWI and of the prediction. model: its address, models:/NAME/VERSION. synthetic:
    it learnt from synthetic scans alone. review: why a person should check the mask, "" if nothing is unusual, None if
    unknown. The files say all of this. Files with the same UIDs say the same of the same patient and study.

    Raises:
        BadVolume: the headers of the source lack what an answer must refer to.
    """
    volume, label = study.dwi, Label.of(model, synthetic, review)
    lesion = _planes(mask, volume) > 0.5
    drawn = _outlined(_planes(scan, volume), lesion, label.lines)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom prints the name of the patient if it has one part alone
            sources = _sources(volume)
            key = _key(sources[0], volume, lesion, drawn, label)
            made: dict[str, pydicom.Dataset] = {SEGMENTATION: _segmentation(sources, volume, lesion, key, label)}
            made |= dict(_pictures(sources[0], volume, drawn, key, label))
            return {name: _content(file) for name, file in made.items()}
    except Exception as error:  # highdicom and pydicom raise errors of many kinds for a stranger's header
        raise BadVolume(f"no answer in DICOM: its source does not allow one ({shown(str(error), 150)})") from None


def _key(source: pydicom.Dataset, volume: Volume, lesion: np.ndarray, drawn: np.ndarray, label: Label) -> str:
    """Return a digest of all that the files hold: UIDs are made from it."""
    owner = [str(source.get(k, "")) for k in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID")]
    images = [(plane.sop_uid, plane.frame) for plane in volume.planes]
    pixels = [hashlib.sha256(array.tobytes()).hexdigest() for array in (np.packbits(lesion), drawn)]
    content = [FORMAT, owner, images, pixels, label.model, label.text]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def answer_names(study: Chosen) -> list[str]:
    """Return the names of the files that `answer` makes."""
    return [SEGMENTATION, *(_picture_name(number) for number in range(len(study.dwi.planes)))]


def is_ours(path: Path) -> bool:
    """Return whether `answer` made a file."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Manufacturer", "SeriesDescription"])
    except Exception:  # a file of others may hold anything
        return False
    return header.get("Manufacturer") == MAKER and NOTICE in str(header.get("SeriesDescription", ""))


def is_unchanged(path: Path) -> bool:
    """Return whether the pixels of a file of ours are still those that `answer` wrote."""
    group, creator, element = DIGEST
    try:
        file = pydicom.dcmread(path)
        return file.private_block(group, creator)[element].value == hashlib.sha256(file.PixelData).hexdigest()
    except Exception:  # a damaged file, or one from which a program removed the digest
        return False


def _content(file: pydicom.Dataset) -> bytes:
    group, creator, element = DIGEST
    digest = hashlib.sha256(file.PixelData).hexdigest()
    file.private_block(group, creator, create=True).add_new(element, "LO", digest)
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _planes(nifti: bytes, volume: Volume) -> np.ndarray:
    """Return a NIfTI file on the grid of a series, (planes, rows, columns) in the order of `volume.planes`."""
    data, geometry = read_nifti_bytes(nifti)
    return in_planes(geometry.native(data), geometry.affine, volume)  # type: ignore[arg-type]


def _sources(volume: Volume) -> list[pydicom.Dataset]:
    """Return the headers of the files of a volume: one for each plane, or the one multi-frame file."""
    sources: list[pydicom.Dataset] = [
        pydicom.dcmread(path, stop_before_pixels=True) for path in dict.fromkeys(p.path for p in volume.planes)
    ]
    for source in sources:
        for keyword in MAY_BE_EMPTY:
            if keyword not in source:
                setattr(source, keyword, "")
        source.SliceThickness = source.get("SliceThickness") or _thickness(volume)
    return sources


def _segmentation(
    sources: list[pydicom.Dataset], volume: Volume, lesion: np.ndarray, key: str, label: Label
) -> hd.seg.Segmentation:
    name, version = named(label.model)
    algorithm = hd.AlgorithmIdentificationSequence(name, codes.cid7162.ArtificialIntelligence, version)
    described = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Ischemic stroke lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[codes.SCT.Brain],
    )
    first = volume.planes[0]
    result = hd.seg.Segmentation(
        sources, lesion.astype(np.uint8), hd.seg.SegmentationTypeValues.BINARY, [described],
        generate_uid(entropy_srcs=[key, "series"]), SEG_NUMBER, generate_uid(entropy_srcs=[key, "seg"]), 1,
        MAKER, name, version, MAKER,
        content_label="LESION", content_description=label.text[:MOST_TEXT],
        plane_positions=[hd.PlanePositionSequence("PATIENT", plane.position) for plane in volume.planes],
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", first.orientation),
        pixel_measures=hd.PixelMeasuresSequence(first.spacing, _thickness(volume), _thickness(volume)),
        omit_empty_frames=False,
    )  # fmt: skip
    result.SeriesDescription = label.series("lesion")
    result.SegmentSequence[0].SegmentDescription = label.text[:MOST_LONG_TEXT]
    _refer(result, volume)
    return result


def _refer(result: hd.seg.Segmentation, volume: Volume) -> None:
    """Let each frame refer to the image at its place: highdicom counts images, and we take some frames of a file."""
    for frame in result.PerFrameFunctionalGroupsSequence:
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        plane = min(volume.planes, key=lambda p: float(np.linalg.norm(position - p.position)))
        for image in (image for derived in frame.DerivationImageSequence for image in derived.SourceImageSequence):
            image.ReferencedSOPInstanceUID = plane.sop_uid
            if plane.frame is not None:
                image.ReferencedFrameNumber = plane.frame + 1


def _pictures(
    source: pydicom.Dataset, volume: Volume, drawn: np.ndarray, key: str, label: Label
) -> Iterator[tuple[str, pydicom.Dataset]]:
    scale = drawn.shape[1] // volume.planes[0].size[0]
    for number, (plane, pixels) in enumerate(zip(volume.planes, drawn, strict=True)):
        picture = hd.sc.SCImage.from_ref_dataset(
            source, pixels, "RGB", 8, "PATIENT",
            generate_uid(entropy_srcs=[key, "outlines"]), OUTLINE_NUMBER,
            generate_uid(entropy_srcs=[key, "outline", str(number)]), number + 1, MAKER,
            pixel_spacing=tuple(side / scale for side in plane.spacing),
            patient_orientation=_letters(plane.orientation),
            transfer_syntax_uid=pydicom.uid.ExplicitVRLittleEndian,
        )  # fmt: skip
        picture.ImageType = ["DERIVED", "SECONDARY"]
        picture.SeriesDescription = label.series("outline")
        picture.ImageComments = f"{label.text[:MOST_LONG_TEXT]}. {shown(label.model, 200)}"
        picture.BodyPartExamined = "BRAIN"
        picture.BurnedInAnnotation = "NO"  # the text in it names no patient
        picture.ManufacturerModelName, picture.SoftwareVersions = named(label.model)
        reference = pydicom.Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, plane.sop_uid
        if plane.frame is not None:
            reference.ReferencedFrameNumber = plane.frame + 1
        picture.SourceImageSequence = [reference]
        yield _picture_name(number), picture


def named(model: str) -> tuple[str, str]:
    """Return name and version of a model by its address: models:/NAME/VERSION, or another as it is."""
    parts = model.removeprefix("models:/").split("/")
    name, version = (parts[0], parts[1]) if model.startswith("models:/") and len(parts) == 2 else (model, model)
    return name[-MOST_TEXT:], version[-MOST_TEXT:]


def _picture_name(number: int) -> str:
    return f"{OUTLINE}/{number + 1:04}.dcm"


def _thickness(volume: Volume) -> float:
    return float(np.linalg.norm(np.array(volume.planes[-1].position) - volume.planes[0].position)) / (
        len(volume.planes) - 1
    )


def _letters(orientation: tuple[float, ...]) -> tuple[str, str]:
    """Return where rows and columns of an image point, as Patient Orientation says it: A, P, R, L, H, F."""
    pairs = (("L", "R"), ("P", "A"), ("H", "F"))
    strongest = (max(range(3), key=lambda axis: abs(cosines[axis])) for cosines in (orientation[:3], orientation[3:]))
    across, down = strongest
    return pairs[across][orientation[across] < 0], pairs[down][orientation[3 + down] < 0]


def _outlined(image: np.ndarray, lesion: np.ndarray, text: list[str]) -> np.ndarray:
    """Return pictures (planes, rows, columns, 3) of a scan, enlarged, with the lesion's outline and lines of text."""
    white = float(np.percentile(image, BRIGHTEST)) or 1.0
    grey = (255 * np.clip(image / white, 0, 1)).astype(np.uint8)
    scale = max(1, -(-SIDE // image.shape[2]))
    return np.stack([_picture(*plane, scale, text) for plane in zip(grey, lesion, strict=True)])


def _picture(grey: np.ndarray, lesion: np.ndarray, scale: int, text: list[str]) -> np.ndarray:
    large, inside = (np.kron(plane, np.ones((scale, scale), np.uint8)) for plane in (grey, lesion.astype(np.uint8)))
    picture = np.stack([large] * 3, axis=-1)
    picture[(inside > 0) & ~ndimage.binary_erosion(inside, iterations=2, border_value=1)] = COLOUR
    for line, content in enumerate(text):
        place = (6, picture.shape[0] - 6 - 20 * (len(text) - 1 - line))
        cv2.putText(picture, content[:MOST_SHOWN], place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1, cv2.LINE_AA)
    return picture
