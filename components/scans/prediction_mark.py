"""Mark the files that a model predicted, so that nobody takes a prediction for a label.

The mark is in the field `descrip` of the NIfTI header, which nibabel and ITK keep: the kind of file, and for a mask a
digest of its voxels. `make predict` lists the same digests in `predictions.csv` beside the folder `masks/`.
"""

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TABLE, PART = "predictions.csv", ".part"
"""The table that `make predict` writes beside its masks; an interrupted call leaves it with the ending `PART`."""
FIRST_COLUMNS, DIGEST = ["case", "file"], "voxels"
"""The first columns of such a table, and its column of digests (tables of earlier versions have no digests)."""
PROBABILITY = "dwi-stroke probability"
MARK = re.compile(r"dwi-stroke (?:probability|mask ([0-9a-f]{32}))")
DESCRIP = slice(148, 228)
"""The bytes of `descrip` in a NIfTI-1 header."""


@dataclass(frozen=True)
class Mark:
    """The mark in a file. `digest` is that of the predicted voxels; None for probabilities."""

    text: str
    digest: str | None


def mark_of_mask(mask: np.ndarray) -> str:
    """Return the mark of a predicted mask (any axis order; lesion above 0.5)."""
    return f"dwi-stroke mask {digest(mask)}"


def digest(mask: np.ndarray) -> str:
    """Return a digest of the voxels of a mask (three axes; lesion above 0.5).

    It does not depend on the order and direction of the axes: a copy that another program turned to its orientation, or
    stored as another type, has the same digest.
    """
    lesion = mask > 0.5
    others = {0: (1, 2), 1: (0, 2), 2: (0, 1)}
    profiles = [lesion.sum(axis=others[axis]).tolist() for axis in range(3)]
    turned = [axis for axis, profile in enumerate(profiles) if profile[::-1] < profile]
    profiles = [min(profile, profile[::-1]) for profile in profiles]
    order = sorted(range(3), key=lambda axis: (len(profiles[axis]), profiles[axis]))
    canonical = np.transpose(np.flip(lesion, tuple(turned)), order)
    content = str(canonical.shape).encode() + np.packbits(canonical).tobytes()
    return hashlib.sha256(content).hexdigest()[:32]


def read_mark(path: Path) -> Mark | None:
    """Return the mark in a file's header; None if it has none, or if the file is not readable NIfTI."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            return in_header(file.read(348))
    except (OSError, EOFError, zlib.error):
        return None


def in_header(head: bytes) -> Mark | None:
    """Return the mark in the first 348 bytes of a NIfTI-1 file; None if there is none."""
    text = head[DESCRIP].partition(b"\0")[0].decode("latin-1")
    found = MARK.fullmatch(text)
    return Mark(text, found[1]) if found else None


def stamped(blob: bytes, mark: str) -> bytes:
    """Return the content of a `.nii.gz` file with the mark in its header; a file with a mark is not changed."""
    content = gzip.decompress(blob)
    if in_header(content[:348]):
        return blob
    head = content[: DESCRIP.start] + mark.encode().ljust(80, b"\0")
    return gzip.compress(head + content[DESCRIP.stop :], compresslevel=1, mtime=0)
