"""Open what `make predict` is given: a folder of NIfTI files, or a folder or a zip of DICOM files to convert."""

import contextlib
import logging
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.errors import StepError
from components.core.step import progress
from components.ingest.found_files import Found, FoundCase
from components.scans.geometry import BadVolume
from pipelines.dicom.dicom_files import dicom_keys
from pipelines.dicom.unzip import unzip
from pipelines.folder_files import files_of
from pipelines.predict.find_scans import find

if TYPE_CHECKING:
    from pipelines.dicom.choose import Chosen


@dataclass(frozen=True)
class Input:
    """The scans to segment: NIfTI files below `folder`. `studies`: what was taken of DICOM, by case."""

    folder: Path
    found: Found
    studies: dict[str, "Chosen"] = field(default_factory=dict)


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip, by its content."""
    return path.is_file() and not path.name.lower().endswith((".nii", ".nii.gz")) and zipfile.is_zipfile(path)


@contextlib.contextmanager
def open_input(source: Path, series: str) -> Iterator[Input]:
    """Find the scans in a folder or a zip. The NIfTI files of DICOM studies exist until the context ends.

    series: numbers and UIDs of DICOM series, as SERIES names them.

    Raises:
        StepError: there are no scans, or SERIES names no series.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = source.resolve()
        if is_zip(source):
            folder = Path(temporary) / "unpacked"
            folder.mkdir()
            unzip(source, folder)
        keys = dicom_keys(folder, list(files_of(folder)))
        nifti = _nifti(folder, keys)
        if nifti and keys:
            logging.warning("left out: %d DICOM files, because there are NIfTI scans in the same folder", len(keys))
        if nifti and series:
            raise StepError(f"SERIES chooses a series of DICOM, and {source} holds NIfTI scans. Leave it out.")
        name = source.stem if is_zip(source) else folder.name
        yield nifti or _converted(folder, keys, Path(temporary), name, series)


def _nifti(folder: Path, dicom: list[str]) -> Input | None:
    """Return the NIfTI scans of a folder; None if there are DICOM files instead.

    Raises:
        StepError: there is neither.
    """
    try:
        found = find(folder)
    except StepError:
        if dicom:
            return None
        raise
    return Input(folder, found) if found.cases or not dicom else None


def _converted(folder: Path, keys: list[str], temporary: Path, name: str, series: str) -> Input:
    """Convert each DICOM study of a folder. One study alone gets the name of the folder or the zip, `name`."""
    from pipelines.dicom.choose import names_series  # here, as most inputs need neither pydicom nor dcm2niix
    from pipelines.dicom.convert import ADC, B0, DWI, SIDECAR_NAME, convert
    from pipelines.dicom.studies import find_studies, own_folder

    wanted = names_series(series)
    studies = find_studies(folder, keys, wanted)
    found = Found("DICOM", [], {}, [])
    taken: dict[str, Chosen] = {}
    for number, study in enumerate(progress(studies, total=len(studies), what="converted")):
        others = [other.home for other in studies if other is not study]
        case = name if len(studies) == 1 or not study.home else own_folder(study.home, others)
        try:
            made = convert(study.chosen(wanted))
        except BadVolume as reason:
            found.refused[case] = "; ".join(filter(None, (found.refused.get(case), str(reason))))
            continue
        place = temporary / "converted" / str(number)
        place.mkdir(parents=True)
        for file, content in made.files.items():
            (place / file).write_bytes(content)
        adc, b0 = (f"{number}/{file}" if file in made.files else None for file in (ADC, B0))
        b_values = [f"{number}/{SIDECAR_NAME}"] if b0 else []
        found.cases.append(FoundCase(case, case, image=[f"{number}/{DWI}"], adc=adc, b0=b0, b_values=b_values))
        taken[case] = made.chosen
    return Input(temporary / "converted", found, taken)
