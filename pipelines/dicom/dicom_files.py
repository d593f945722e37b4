"""Tell DICOM files from others by their first bytes."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

MAGIC_AT, MAGIC = 128, b"DICM"
BARE_EXPLICIT = re.compile(rb"(?s:[\x02\x08]\0..|\0[\x02\x08]..)(AE|CS|DA|DT|LO|OB|PN|SH|SQ|TM|UI|UL|US)")
BARE_IMPLICIT = re.compile(rb"(?s:[\x02\x08]\0.[\0\x01].[\0-\x03]\0\0)")
"""How a data set begins that lacks the 128 bytes and DICM: with an element of group 0002 or 0008. The second way has a
length, below 1024, where the first has a type."""
ARCHIVES, ZIP = (".zip", ".7z", ".rar", ".tar", ".tgz", ".tar.gz", ".dcm.gz"), b"PK\x03\x04"
DIRECTORY = "DICOMDIR"
"""The table of contents of a disk. It names the patients."""


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, with or without the header of a DICOM file. Its name does not count."""
    start = _start(path)
    return start[MAGIC_AT:] == MAGIC or bool(BARE_EXPLICIT.match(start) or BARE_IMPLICIT.match(start))


def lacks_file_header(path: Path) -> bool:
    """Return whether a file is DICOM without the header of a DICOM file."""
    return is_dicom(path) and _start(path)[MAGIC_AT:] != MAGIC


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip, by its first bytes, or another archive, by its name: it may hold DICOM."""
    return path.name.lower().endswith(ARCHIVES) or _start(path).startswith(ZIP)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_AT + len(MAGIC))
    except OSError:
        return b""


def dicom_keys(folder: Path, keys: Iterable[str]) -> list[str]:
    """Return the keys of the DICOM files that may hold images."""
    scans = (".nii", ".nii.gz", ".npy")
    images = (key for key in keys if not key.lower().endswith(scans) and Path(key).name.upper() != DIRECTORY)
    return [key for key in images if is_dicom(folder / key)]


def holds_dicom(folder: Path) -> bool:
    """Return whether a file below a folder is DICOM."""
    return any(map(is_dicom, files_below(folder)))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; what cannot be read is passed over."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                if (path := Path(parent, name)).is_file():
                    yield path
