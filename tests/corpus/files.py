"""The bytes of scans, good and spoilt."""

import gzip
import io
import os
import zlib

import nibabel as nib
import numpy as np

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
SHAPE = (32, 24, 5)


def brain(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DWI, ADC in 1e-3 mm2/s (float32), lesion mask (uint8), all (32, 24, 5)."""
    rng = np.random.default_rng(seed)
    x, y, s = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    head = x**2 + y**2 + 0.2 * s**2 < 0.9
    lesion = (x - 0.35) ** 2 + (y + 0.2) ** 2 + 0.1 * s**2 < 0.06
    dwi = head * (100 + 100 * lesion + rng.uniform(0, 10, SHAPE))
    adc = head * (0.8 - 0.4 * lesion + rng.uniform(0, 0.1, SHAPE))
    return dwi.astype(np.float32), adc.astype(np.float32), lesion.astype(np.uint8)


DWI, ADC, MASK = brain()


def nifti(data: np.ndarray = DWI, affine: np.ndarray = AFFINE, **header) -> bytes:
    """An uncompressed NIfTI-1 file; `header` sets fields of it as they are, sensible or not."""
    raw = bytearray(nib.Nifti1Image(data, affine).to_bytes())
    for name, value in header.items():
        dtype, at = nib.nifti1.header_dtype.fields[name]
        raw[at : at + dtype.itemsize] = np.asarray(value, dtype.base).tobytes().ljust(dtype.itemsize, b"\0")
    return bytes(raw)


def packed(raw: bytes) -> bytes:
    return gzip.compress(raw, 1, mtime=0)


def sheared(degrees: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 1] = 2 * np.sin(np.radians(degrees))
    affine[1, 1] = 2 * np.cos(np.radians(degrees))
    return affine


def moved(*millimetres: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] = millimetres
    return affine


def npy(data: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, data, allow_pickle=True)
    return out.getvalue()


def npy_that_says(header: str, content: bytes = b"") -> bytes:
    """A `.npy` file whose header is this text, whatever follows it."""
    padded = header.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + content


class Trap:
    """Leaves a trace (the folder named by CORPUS_TRACE) where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ.get("CORPUS_TRACE", "unpickled"),)


def bomb(head: bytes, megabytes: int, members: int = 1) -> bytes:
    """A gzip file of `head` and so many megabytes of zeros, `members` times; about a thousandth of that long."""
    packer = zlib.compressobj(level=9, wbits=31)
    one = packer.compress(head) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()
    return one * members
