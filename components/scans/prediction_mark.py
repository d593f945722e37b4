"""The mark of what a model predicted, so that no prediction is ever taken for a label.

It stands in the NIfTI file itself, in the field `descrip`, which nibabel and ITK keep: what the file is, and for a
mask a digest of its voxels. `make predict` lists the same digests in `predictions.csv` beside the folder `masks/`.
"""

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TABLE, PART = "predictions.csv", ".part"
"""What `make predict` leaves beside its masks; a call that was stopped leaves it with `PART` at its end."""
FIRST_COLUMNS, DIGEST = ["case", "file"], "voxels"
"""How such a table begins, and its column of digests (tables of earlier versions have none)."""
PROBABILITY = "dwi-stroke probability"
MARK = re.compile(r"dwi-stroke (?:probability|mask ([0-9a-f]{32}))")
DESCRIP = slice(148, 228)
"""Where `descrip` stands in a NIfTI-1 header."""


@dataclass(frozen=True)
class Mark:
    """What a file says that it is; `digest` is that of the voxels as they were predicted, None for probabilities."""

    text: str
    digest: str | None


def mark_of_mask(mask: np.ndarray) -> str:
    """The mark of a predicted mask (any axis order; lesion above 0.5)."""
    return f"dwi-stroke mask {digest(mask)}"


def digest(mask: np.ndarray) -> str:
    """Of the voxels of a mask (three axes; lesion above 0.5), whatever the order and direction of its axes.

    So a copy that another program turned to its own orientation, or stored as another type, has the same one.
    """
    lesion = mask > 0.5
    others = {0: (1, 2), 1: (0, 2), 2: (0, 1)}
    profiles = [lesion.sum(axis=others[axis]).tolist() for axis in range(3)]
    turned = [axis for axis, profile in enumerate(profiles) if profile[::-1] < profile]
    profiles = [min(profile, profile[::-1]) for profile in profiles]
    order = sorted(range(3), key=lambda axis: (len(profiles[axis]), profiles[axis]))
    canonical = np.transpose(np.flip(lesion, turned), order)
    content = str(canonical.shape).encode() + np.packbits(canonical).tobytes()
    return hashlib.sha256(content).hexdigest()[:32]


def read_mark(path: Path) -> Mark | None:
    """Return the mark in a file's header; None without one, or where the file is not readable NIfTI."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            return in_header(file.read(348))
    except (OSError, EOFError, zlib.error):
        return None


def in_header(head: bytes) -> Mark | None:
    """The mark in the first 348 bytes of a NIfTI-1 file."""
    text = head[DESCRIP].partition(b"\0")[0].decode("latin-1")
    found = MARK.fullmatch(text)
    return Mark(text, found[1]) if found else None


def stamped(blob: bytes, mark: str) -> bytes:
    """The content of a `.nii.gz` file with the mark in its header; as it is where it holds a mark already."""
    content = gzip.decompress(blob)
    if in_header(content[:348]):
        return blob
    head = content[: DESCRIP.start] + mark.encode().ljust(80, b"\0")
    return gzip.compress(head + content[DESCRIP.stop :], compresslevel=1, mtime=0)
