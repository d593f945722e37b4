"""Read and write NIfTI volumes and `.npy` arrays.

A volume is an array (X, Y, S): two in-plane axes and the slices. A NIfTI volume is turned to RAS+ (the closest
permutation and flip of the stored axes: no voxel is resampled). A `.npy` array has no geometry: it is (X, Y, S) as
stored, and its voxel size is unknown.
"""

import gzip
import io
import math
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from components.scans.geometry import BadVolume, Geometry, assumptions, check_affine, read_space, space_of_affine

MOST_SIDE, MAX_VOXELS = 1024, 2**27
"""Most voxels of a brain scan, along an axis and in all (512 x 512 x 512; 512 MiB as float32)."""
HEADER_BYTES = 352
MOST_EXTENSION_BYTES, MOST_PADDING_BYTES = 2**24, 2**12
"""Most bytes of a NIfTI file between its header and its voxels, and after them."""
MOST_FILE_BYTES = 8 * MAX_VOXELS + HEADER_BYTES + MOST_EXTENSION_BYTES
"""A larger file is not opened, compressed or not."""
GZIP, GZIP_PIECE, MOST_GZIP_MEMBERS = b"\x1f\x8b", 2**16, 2**15
"""bgzip splits a file into members of 64 KiB: 32,768 of them hold more than the largest scan."""
BOMB_BYTES, BOMB_RATIO = 2**28, 200
"""Scans compress 2- to 10-fold. Masks, mostly zeros, may compress 1000-fold, but do not unpack to 256 MiB."""
INTENSITIES = 1e-12, 1e12
"""Smallest range and largest value. In single precision, smaller ranges vanish and larger squares overflow."""
MIN_SLICES = 3
MIN_IN_PLANE = 16


def read(path: Path) -> tuple[np.ndarray, Geometry]:
    """Return a scan as float32 (X, Y, S) in canonical orientation, and its geometry.

    Raises:
        BadVolume: the file is unreadable, not 3-D, of a type that holds no intensities, or its geometry is impossible.
    """
    try:
        return _read_npy(path) if path.name.lower().endswith(".npy") else read_nifti_bytes(file_bytes(path))
    except (PermissionError, FileNotFoundError) as error:
        raise BadVolume(f"it cannot be read ({error.strerror})") from None


def file_bytes(path: Path) -> bytes:
    """Return the content of a file that may be a scan.

    Raises:
        BadVolume: it is larger than any scan.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        _require_size(file.seek(0, 2))
        file.seek(0)
        return file.read()


def _require_size(size: int) -> None:
    if size > MOST_FILE_BYTES:
        raise BadVolume(f"the file is larger than any scan ({size:,} bytes, at most {MOST_FILE_BYTES:,})")


def _read_npy(path: Path) -> tuple[np.ndarray, Geometry]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        _require_size(size)
    try:
        with np.errstate(all="ignore"):  # sizes that overflow are refused below
            mapped = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:
        raise BadVolume(f"not readable as .npy ({_one_line(error)})") from None
    if (promised := mapped.offset + mapped.nbytes) < size:
        raise BadVolume(f"the file holds more than the {promised} bytes that its header promises")
    stored = mapped[:, :, None] if mapped.ndim == 2 else mapped
    repairs = _check_shape(stored.shape)
    _check_dtype(stored.dtype)
    geometry = Geometry(tuple(stored.shape), None, repairs)
    with np.errstate(all="ignore"):  # values that overflow become infinite, which is refused later
        return geometry.canonical(np.array(stored, dtype=np.float32)), geometry


def read_nifti_bytes(blob: bytes) -> tuple[np.ndarray, Geometry]:
    """Return a scan as `read` does, from the content of a `.nii` or `.nii.gz` file.

    Raises:
        BadVolume: as `read` does.
    """
    try:
        head = nib.Nifti1Header.from_fileobj(io.BytesIO(_unpacked(blob, 348)[0]), check=False)
        if head["magic"].item() != b"n+1":
            raise BadVolume("not readable as NIfTI (not a single NIfTI-1 file)")
        shape = tuple(int(n) for n in head.get_data_shape())
    except BadVolume:
        raise
    except Exception as error:
        raise BadVolume(f"not readable as NIfTI ({_one_line(error)})") from None
    repairs = _check_shape(shape)
    count = math.prod(shape)
    try:
        dtype, offset = head.get_data_dtype(), max(int(head["vox_offset"]), HEADER_BYTES)
        _check_dtype(dtype)
        if offset > HEADER_BYTES + MOST_EXTENSION_BYTES:
            raise BadVolume(f"the header says that the voxels start at byte {offset}")
        size = offset + count * dtype.itemsize
        if size > max(BOMB_BYTES, BOMB_RATIO * len(blob)) and blob[:2] == GZIP:
            raise BadVolume(f"{len(blob)} bytes that would unpack to {size}: no scan compresses so well")
        raw, complete = _unpacked(blob, size + MOST_PADDING_BYTES)
        if len(raw) < size or (len(raw) < size + MOST_PADDING_BYTES and not complete):
            raise BadVolume(f"cut short: the header promises {size} bytes, the file holds {len(raw)} or ends too early")
        if not complete:
            raise BadVolume(f"the file holds more than the {size} bytes that its header promises")
        with np.errstate(all="ignore"):  # values that overflow become infinite, which is refused later
            data = np.frombuffer(raw, dtype, count, offset).reshape(shape, order="F").astype(np.float32)
        del raw
        if np.isinf(head["scl_slope"]):
            raise BadVolume("the header scales intensities by infinity")
        slope, intercept = head.get_slope_inter()
        space, corrections = read_space(head)
        affine = np.asarray(space.get_best_affine(), dtype=np.float64)
    except BadVolume:
        raise
    except Exception as error:
        raise BadVolume(f"not readable as NIfTI ({_one_line(error)})") from None
    if slope is not None and (slope, intercept) != (1, 0):
        with np.errstate(all="ignore"):
            data *= np.float32(slope)
            data += np.float32(intercept)
    check_affine(affine)
    geometry = Geometry(shape, affine, repairs + corrections + assumptions(space, affine), space)
    return geometry.canonical(data), geometry


def _unpacked(blob: bytes, most: int) -> tuple[bytearray | bytes, bool]:
    """Return up to `most` bytes of the content, and whether that is all of it and its checksum is right.

    A gzip bomb is not unpacked further.

    Raises:
        BadVolume: the content is damaged, or other data follows it.
    """
    if blob[:2] != GZIP:
        return blob[:most], len(blob) <= most
    raw, at, members, reader = bytearray(), 0, 1, zlib.decompressobj(wbits=31)
    try:
        while len(raw) < most and at < len(blob):
            raw += reader.decompress(blob[at : at + GZIP_PIECE], most - len(raw))
            at = min(at + GZIP_PIECE, len(blob)) - len(reader.unused_data)
            if not reader.eof or at == len(blob):
                continue
            if blob[at : at + 2] != GZIP:
                if blob.count(0, at) < len(blob) - at:
                    raise BadVolume("other data follows the gzip content of the file")
                at = len(blob)  # zeros: the padding of a tape or a disk
            elif (members := members + 1) > MOST_GZIP_MEMBERS:
                raise BadVolume(f"the file holds more than {MOST_GZIP_MEMBERS} gzip members")
            else:
                reader = zlib.decompressobj(wbits=31)
    except zlib.error as error:
        raise BadVolume(f"not readable as NIfTI (its gzip content is damaged: {_one_line(error)})") from None
    return raw, reader.eof and at == len(blob)


def _check_shape(shape: tuple[int, ...]) -> tuple[str, ...]:
    repairs: tuple[str, ...] = ()
    if len(shape) == 4 and shape[3] == 1:
        repairs = ("dropped a trailing axis of length one",)
    elif len(shape) != 3:
        raise BadVolume(f"shape {shape} is not a 3-D volume")
    if min(shape) < 1 or max(shape) > MOST_SIDE or math.prod(shape) > MAX_VOXELS:
        raise BadVolume(f"shape {shape} is not that of a brain scan")
    return repairs


def _check_dtype(dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        name = "of several fields" if dtype.names else dtype  # a field's name may hold a patient's name
        raise BadVolume(f"data type {name} holds no intensities")


def require_scan(image: np.ndarray) -> None:
    """Check that a volume (X, Y, S) can be a scan to learn from or to segment.

    Raises:
        BadVolume: it cannot.
    """
    if bad := int(image.size - np.isfinite(image).sum()):
        raise BadVolume(f"the image holds {bad} voxels that are NaN or infinite")
    if image.shape[2] < MIN_SLICES:
        raise BadVolume(f"{image.shape[2]} slices, at least {MIN_SLICES} are needed (a volume is (X, Y, slices))")
    if min(image.shape[:2]) < MIN_IN_PLANE:
        raise BadVolume(f"in-plane size {image.shape[:2]} is below {MIN_IN_PLANE} pixels")
    low, high = float(image.min()), float(image.max())
    if low == high:
        raise BadVolume(f"the image is constant ({low:g} everywhere)")
    if max(abs(low), abs(high)) > INTENSITIES[1] or high - low < INTENSITIES[0]:
        raise BadVolume(f"intensities from {low:g} to {high:g} are not those of a scan")
    if ((image == low) | (image == high)).all():
        raise BadVolume(f"the image holds only two values ({low:g} and {high:g}): is it a mask?")


def nifti_bytes(data: np.ndarray, space: nib.Nifti1Header | np.ndarray | None, mark: str = "") -> bytes:
    """Return a `.nii.gz` file whose header holds only the geometry and `mark`; the same input gives the same bytes.

    space: that of the scan's `Geometry`, or an affine (4, 4).
    """
    if not isinstance(space, nib.Nifti1Header):
        space = space_of_affine(np.eye(4) if space is None else space)
    header = space.copy()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_slope_inter(1, 0)
    header["descrip"] = mark
    header["vox_offset"] = HEADER_BYTES
    voxels = data.astype(header.get_data_dtype(), copy=False).tobytes(order="F")
    padding = bytes(HEADER_BYTES - header.sizeof_hdr)
    return gzip.compress(header.binaryblock + padding + voxels, compresslevel=1, mtime=0)


def write(path: Path, data: np.ndarray, space: nib.Nifti1Header | np.ndarray | None) -> None:
    """Write a `.nii.gz` file (see `nifti_bytes`); the file is never incomplete."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)  # do not follow a link that another user put there
    with part.open("xb") as file:
        file.write(nifti_bytes(data, space))
    part.rename(path)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).partition(": ")[0]  # the rest quotes the header, which may hold anything
    return text[:200] or type(error).__name__
