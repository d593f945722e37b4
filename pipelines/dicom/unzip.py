"""Unpack a zip of DICOM files into a folder, and refuse one that would write elsewhere or fill the disk."""

import lzma
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from components.core.errors import StepError
from components.core.text import shown
from components.ingest.file_names import HIDDEN, name_problem

MOST_FILES, MOST_BYTES, MOST_RATIO = 50_000, 2**33, 200
"""A study has some thousand files and rarely a GiB. MRI compresses 2- to 10-fold."""
DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, ValueError,
    FileExistsError, NotADirectoryError, IsADirectoryError,
)  # fmt: skip
"""What zipfile raises for a damaged zip; ValueError is also a name in no encoding. bz2 raises OSError without errno."""
SMALL = 2**28
"""Up to this size the ratio does not matter."""


def unzip(path: Path, folder: Path) -> None:
    """Unpack a zip into the empty folder `folder`.

    Raises:
        StepError: it is no zip, is damaged, needs a password, is too large, or has a file name that leaves the folder
            or is there twice; or the disk is full.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            files = [one for one in packed.infolist() if not one.is_dir()]
            _require_harmless(path, files)
            for one in files:
                if not HIDDEN.search(one.filename):
                    packed.extract(one, folder)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, DAMAGED):
            raise StepError(
                f"INPUT={path} could not be unpacked into {folder} ({error.strerror}). Make room."
            ) from None
        raise StepError(
            f"INPUT={path} cannot be unpacked ({shown(str(error), 100)}). Make the zip again, or give the folder."
        ) from None


def _require_harmless(path: Path, files: list[zipfile.ZipInfo]) -> None:
    names = set()
    for one in files:
        if one.filename.casefold() in names:
            raise _refusal(path, f"{shown(one.filename)} is there twice (capital letters do not count)")
        names.add(one.filename.casefold())
        if "\\" in one.filename or ":" in one.filename or name_problem(one.filename) or one.filename.startswith("/"):
            raise _refusal(path, f"the name {shown(one.filename)} could leave its folder")
        if stat.S_ISLNK(one.external_attr >> 16):
            raise _refusal(path, f"{shown(one.filename)} is a link")
        if one.flag_bits & 1:
            raise _refusal(path, "it needs a password")
    size = sum(one.file_size for one in files)
    if len(files) > MOST_FILES or size > MOST_BYTES:
        raise _refusal(path, f"{len(files)} files of {size:,} bytes; at most {MOST_FILES:,} files of {MOST_BYTES:,}")
    if size > max(SMALL, MOST_RATIO * path.stat().st_size):
        raise _refusal(path, f"{path.stat().st_size:,} bytes that would unpack to {size:,}: no scan compresses so well")


def _refusal(path: Path, why: str) -> StepError:
    return StepError(
        f"INPUT={path} was not unpacked: {why}. If you know who made it, unpack it yourself and give the folder."
    )
