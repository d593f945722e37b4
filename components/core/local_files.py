"""Paths and digests of local files."""

import hashlib
from pathlib import Path

from components.core.errors import StepError


def local_path(folder: Path, key: str) -> Path:
    """Return the path of a key below `folder`.

    Raises:
        StepError: the path is outside the folder.
    """
    path = folder / key
    if not path.resolve().is_relative_to(folder.resolve()):
        raise StepError(f"the key '{key}' points outside its folder. Rename the object.")
    return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
