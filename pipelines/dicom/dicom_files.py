"""Tell DICOM files from others by their first bytes."""

from collections.abc import Iterable
from pathlib import Path

MAGIC_AT, MAGIC = 128, b"DICM"
DIRECTORY = "DICOMDIR"
"""The table of contents of a disk. It names the patients."""


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM. Its name does not count."""
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC
    except OSError:
        return False


def dicom_keys(folder: Path, keys: Iterable[str]) -> list[str]:
    """Return the keys of the DICOM files that may hold images."""
    scans = (".nii", ".nii.gz", ".npy")
    images = (key for key in keys if not key.lower().endswith(scans) and Path(key).name.upper() != DIRECTORY)
    return [key for key in images if is_dicom(folder / key)]
