"""Read and write scans; one canonical orientation inside, the scan's own outside.

A volume is an array (X, Y, S): two in-plane axes and the slices. From NIfTI it is brought to RAS+
(the closest permutation and flip of the stored axes: no voxel is resampled). A `.npy` has no geometry:
its (X, Y, S) is taken as it stands and its voxel size is unknown.
"""

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt2axcodes, ornt_transform

MOST_SIDE, MAX_VOXELS = 1024, 2**27
"""Along an axis, and in all (512 x 512 x 512; 512 MiB as float32): beyond it a file is no brain scan."""
HEADER_BYTES = 352
MOST_EXTENSION_BYTES, MOST_PADDING_BYTES = 2**24, 2**12
"""What a NIfTI file may hold between its header and its voxels, and after them."""
AFFINE_TOLERANCE = 0.25
"""How far what belongs to an image may lie off it, in the smallest voxel sides."""
MOST_FILE_BYTES = 8 * MAX_VOXELS + HEADER_BYTES + MOST_EXTENSION_BYTES
"""A file beyond it, however it is packed, is not opened."""
MOST_FROM_CENTRE_MM = 1e4
LEAST_RIGHT_ANGLE = 0.98
"""A voxel's volume over the product of its sides: 1 at right angles, 0.98 where two of its axes stand at 78 degrees."""
SAME_SIZE = 0.05
"""How far two statements of a voxel's side may differ, as a share of it."""
SAME_PLACE_MM = 0.1
"""How far qform and sform may place a voxel of the scan apart before it is said."""
FORMS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip
"""What a NIfTI header says of where its voxels lie, beside their sizes."""
NIBABEL_LENGTH, ROUNDED_LENGTH = 1 + 3e-7, 1 + 2e-4
"""Squared length of a quaternion: what nibabel takes, and what four decimals can make of 1."""
GZIP, GZIP_PIECE, MOST_GZIP_MEMBERS = b"\x1f\x8b", 2**16, 2**15
"""bgzip parts a file into members of 64 KiB: 32,768 of them hold more than the largest scan."""
BOMB_BYTES, BOMB_RATIO = 2**28, 200
"""Real scans pack 2- to 10-fold. Masks, mostly zeros, may pack 1000-fold, but none of them unpacks to 256 MiB."""
INTENSITIES = 1e-12, 1e12
"""Beyond the larger squares overflow in single precision; a spread below the smaller vanishes there."""
MIN_SLICES = 3
MIN_IN_PLANE = 16


class BadVolume(Exception):
    """The reason why a file is not a usable volume."""


@dataclass(frozen=True)
class Geometry:
    """How a stored array lies in space.

    shape: as stored, a trailing axis of length one included. affine: voxel to RAS+ millimetres,
    None where the file has none. repairs: what had to be assumed or dropped on reading. space: a header that says
    where the voxels lie as the file does (qform, sform, both codes, voxel sizes, unit), and nothing else; other
    programs place what carries it where they place the scan.
    """

    shape: tuple[int, ...]
    affine: np.ndarray | None
    repairs: tuple[str, ...] = ()
    space: nib.Nifti1Header | None = None

    @property
    def orientation(self) -> str | None:
        return None if self.affine is None else "".join(ornt2axcodes(_closest_axes(self.affine)))

    def _to_canonical(self) -> np.ndarray:
        return ornt_transform(_closest_axes(self.affine), axcodes2ornt("RAS"))

    def canonical(self, data: np.ndarray) -> np.ndarray:
        """Stored array to (X, Y, S) in RAS+."""
        data = data.reshape(self.shape[:3])
        return data if self.affine is None else apply_orientation(data, self._to_canonical())

    def native(self, data: np.ndarray) -> np.ndarray:
        """(X, Y, S) in RAS+ back to the stored axes and shape, exactly."""
        if self.affine is not None:
            data = apply_orientation(data, ornt_transform(axcodes2ornt("RAS"), _closest_axes(self.affine)))
        return data.reshape(self.shape)

    @property
    def canonical_affine(self) -> np.ndarray | None:
        if self.affine is None:
            return None
        return self.affine @ nib.orientations.inv_ornt_aff(self._to_canonical(), self.shape[:3])

    @property
    def canonical_space(self) -> nib.Nifti1Header | None:
        """The header `space` for the volume in RAS+: what of both forms there is, turned alike."""
        if self.space is None:
            return None
        turn = nib.orientations.inv_ornt_aff(self._to_canonical(), self.shape[:3])
        sform, qform = self.space.get_sform(coded=True), _qform(self.space)
        if sform[0] is None and qform is None:
            return _space_of(self.affine @ turn)
        space = nib.Nifti1Header()
        space.set_xyzt_units("mm")
        space["pixdim"][1:4] = self.voxel_mm
        if sform[0] is not None:
            space.set_sform(sform[0] @ turn, int(sform[1]))
        if qform is not None:
            space.set_qform(qform @ turn, int(self.space["qform_code"]))
        return space

    @property
    def voxel_mm(self) -> tuple[float, float, float] | None:
        """Voxel size along the canonical axes, millimetres."""
        if self.affine is None:
            return None
        return tuple(float(v) for v in nib.affines.voxel_sizes(self.canonical_affine))


def _closest_axes(affine: np.ndarray) -> np.ndarray:
    """The anatomical axis and direction closest to each stored one.

    A tie (45 degrees) leaves the axes where they are. Left to rounding, a canonical volume might not read as one.
    """
    return io_orientation(affine + np.diag([*(1e-4 * nib.affines.voxel_sizes(affine)), 0]))


def read(path: Path) -> tuple[np.ndarray, Geometry]:
    """A scan as float32 (X, Y, S) in canonical orientation, and its geometry.

    Raises:
        BadVolume: unreadable, not 3-D, of a type that is no intensity, or with an impossible geometry.
    """
    try:
        return _read_npy(path) if path.name.lower().endswith(".npy") else _read_nifti(file_bytes(path))
    except (PermissionError, FileNotFoundError) as error:
        raise BadVolume(f"it cannot be read ({error.strerror})") from None


def file_bytes(path: Path) -> bytes:
    """The content of a file that may be a scan.

    Raises:
        BadVolume: it is larger than any; OSError where it cannot be read.
    """
    with path.open("rb") as file:
        _require_size(file.seek(0, 2))
        file.seek(0)
        return file.read()


def _require_size(size: int) -> None:
    if size > MOST_FILE_BYTES:
        raise BadVolume(f"the file is larger than any scan ({size:,} bytes, at most {MOST_FILE_BYTES:,})")


def read_nifti_bytes(blob: bytes) -> tuple[np.ndarray, Geometry]:
    """The same from the content of a `.nii` or `.nii.gz` file."""
    return _read_nifti(blob)


def _read_npy(path: Path) -> tuple[np.ndarray, Geometry]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        _require_size(size)
    try:
        with np.errstate(all="ignore"):  # sizes that overflow are refused
            stored = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:
        raise BadVolume(f"not readable as .npy ({_one_line(error)})") from None
    if stored.offset + stored.nbytes < size:
        raise BadVolume(f"the file holds more than the {stored.offset + stored.nbytes} bytes that its header promises")
    if stored.ndim == 2:
        stored = stored[:, :, None]
    repairs = _check_shape(stored.shape)
    _check_dtype(stored.dtype)
    geometry = Geometry(tuple(stored.shape), None, repairs)
    with np.errstate(all="ignore"):  # what overflows is infinite, and refused for it
        return geometry.canonical(np.array(stored, dtype=np.float32)), geometry


def _read_nifti(blob: bytes) -> tuple[np.ndarray, Geometry]:
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
            raise BadVolume(f"{len(blob)} bytes that would unpack to {size}: no scan packs so well")
        raw, whole = _unpacked(blob, size + MOST_PADDING_BYTES)
        if len(raw) < size or (len(raw) < size + MOST_PADDING_BYTES and not whole):
            raise BadVolume(f"cut short: the header promises {size} bytes, the file holds {len(raw)} or ends too early")
        if not whole:
            raise BadVolume(f"the file holds more than the {size} bytes that its header promises")
        with np.errstate(all="ignore"):  # what overflows is infinite, and refused for it
            data = np.frombuffer(raw, dtype, count, offset).reshape(shape, order="F").astype(np.float32)
        del raw
        if np.isinf(head["scl_slope"]):
            raise BadVolume("the header says that intensities scale by infinity")
        slope, intercept = head.get_slope_inter()
        space, mended = _space(head)
        affine = np.asarray(space.get_best_affine(), dtype=np.float64)
    except BadVolume:
        raise
    except Exception as error:
        raise BadVolume(f"not readable as NIfTI ({_one_line(error)})") from None
    if slope is not None and (slope, intercept) != (1, 0):
        with np.errstate(all="ignore"):
            data *= np.float32(slope)
            data += np.float32(intercept)
    _check_affine(affine)
    geometry = Geometry(shape, affine, repairs + mended + _assumed(space, affine), space)
    return geometry.canonical(data), geometry


def _unpacked(blob: bytes, most: int) -> tuple[bytearray | bytes, bool]:
    """Up to `most` bytes of the content (a gzip bomb stays packed), and whether that is all and its checksum right.

    Raises:
        BadVolume: damaged, or with something else behind it.
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
                    raise BadVolume("the file goes on after the end of its gzip content")
                at = len(blob)  # zeros, as a tape or a disk pads with
            elif (members := members + 1) > MOST_GZIP_MEMBERS:
                raise BadVolume(f"the file holds more than {MOST_GZIP_MEMBERS} gzip members")
            else:
                reader = zlib.decompressobj(wbits=31)
    except zlib.error as error:
        raise BadVolume(f"not readable as NIfTI (its gzip content is damaged: {_one_line(error)})") from None
    return raw, reader.eof and at == len(blob)


def _space(head: nib.Nifti1Header) -> tuple[nib.Nifti1Header, tuple[str, ...]]:
    """What a header says of where its voxels lie, without what the standard or rounding mends, and what that was.

    Raises:
        BadVolume: the qform is what counts, and it is no rotation.
    """
    space = nib.Nifti1Header()
    for field in (*FORMS, "dim"):
        space[field] = head[field]
    space["pixdim"][:4], space["xyzt_units"] = head["pixdim"][:4], int(head["xyzt_units"]) & 7
    if not space["qform_code"]:
        return space, ()
    said, qfac, counts = [], float(space["pixdim"][0]), not space["sform_code"]
    if qfac == 0:
        space["pixdim"][0] = 1
        said.append("qfac (pixdim[0]) is 0 in the header: taken as 1, as the NIfTI standard says")
    elif abs(qfac) != 1 and counts:
        raise BadVolume(f"the header's qfac (pixdim[0]) is {qfac:g}, not 1 or -1: its qform is no rotation")
    quaternion = np.array([space[f"quatern_{axis}"] for axis in "bcd"], np.float64)
    squared = float(quaternion @ quaternion)
    if NIBABEL_LENGTH < squared <= ROUNDED_LENGTH:
        for axis, value in zip("bcd", quaternion / np.sqrt(squared), strict=True):
            space[f"quatern_{axis}"] = value
        said.append(f"the header's quaternion has length {np.sqrt(squared):.7g} by rounding: made 1")
    elif not squared <= ROUNDED_LENGTH and counts:
        raise BadVolume(f"the header's quaternion has length {np.sqrt(squared):.3g}, not 1: its qform is no rotation")
    return space, tuple(said)


def _qform(space: nib.Nifti1Header) -> np.ndarray | None:
    """The affine of the qform; None where there is none, or it is no rotation."""
    try:
        affine = space.get_qform(coded=True)[0]
    except (nib.spatialimages.HeaderDataError, ValueError):
        return None
    return affine if affine is not None and np.isfinite(affine).all() else None


def _space_of(affine: np.ndarray) -> nib.Nifti1Header:
    space = nib.Nifti1Header()
    space.set_sform(affine, "aligned")
    space.set_qform(affine, "unknown")
    space.set_xyzt_units("mm")
    return space


def _assumed(space: nib.Nifti1Header, affine: np.ndarray) -> tuple[str, ...]:
    """What the header leaves open or says twice, and how it was taken."""
    said = []
    sform, qform = int(space["sform_code"]) > 0, _qform(space)
    if not sform and qform is None:
        said.append("no orientation in the header: assumed as the NIfTI standard says (LAS)")
    if sform:
        sides, stated = nib.affines.voxel_sizes(affine), np.abs(space["pixdim"][1:4])
        if (np.abs(stated - sides) > SAME_SIZE * sides).any():
            said.append(f"the header says twice how large a voxel is: {_sides(sides)} taken, not {_sides(stated)}")
    if sform and qform is not None:
        apart = _most_apart(affine, qform, space.get_data_shape()[:3])
        one_way = ornt2axcodes(_closest_axes(qform)) == ornt2axcodes(_closest_axes(affine))
        if apart > SAME_PLACE_MM or not one_way:
            what = "places for the scan" if one_way else "orientations"
            said.append(
                f"the header holds two {what}, up to {apart:.1f} mm apart: that of the sform taken, not that of the "
                "qform, which some other programs take"
            )
    unit = int(space["xyzt_units"])
    if unit not in (0, 2):
        said.append("the header measures in another unit than millimetres: taken as millimetres")
    return tuple(said)


def _most_apart(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far apart two affines place a voxel of a grid at most, mm: at one of its corners."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    return float(np.linalg.norm((a - b)[:3, :3] @ corners + (a - b)[:3, 3:], axis=0).max())


def _sides(millimetres: np.ndarray) -> str:
    return " x ".join(f"{side:.3g}" for side in millimetres) + " mm"


def _check_shape(shape: tuple[int, ...]) -> tuple[str, ...]:
    repairs = ()
    if len(shape) == 4 and shape[3] == 1:
        repairs = ("dropped a trailing axis of length one",)
    elif len(shape) != 3:
        raise BadVolume(f"shape {shape} is not a 3-D volume")
    if min(shape) < 1 or max(shape) > MOST_SIDE or math.prod(shape) > MAX_VOXELS:
        raise BadVolume(f"shape {shape} is not that of a brain scan")
    return repairs


def _check_dtype(dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        name = "of several fields" if dtype.names else dtype  # a field's name may be anything, a patient's too
        raise BadVolume(f"data type {name} is no intensity")


def _check_affine(affine: np.ndarray) -> None:
    if not np.isfinite(affine).all():
        raise BadVolume("the header's affine is not finite")
    sizes = nib.affines.voxel_sizes(affine)
    if min(sizes) <= 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * np.prod(sizes):
        raise BadVolume("the header's affine is singular")
    if min(sizes) < 0.1 or max(sizes) > 30:
        raise BadVolume(f"voxel size {tuple(round(float(s), 3) for s in sizes)} mm is not that of a brain scan")
    if abs(np.linalg.det(affine[:3, :3])) < LEAST_RIGHT_ANGLE * np.prod(sizes):
        raise BadVolume("the header's axes are not at right angles")
    if (far := np.abs(affine[:3, 3]).max()) > MOST_FROM_CENTRE_MM:
        raise BadVolume(f"the header places the scan {far / 1000:.3g} m from the scanner's centre")


def require_scan(image: np.ndarray) -> None:
    """Raises BadVolume where the volume (X, Y, S) is no scan to learn from or to segment."""
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


def require_same_grid(what: str, other: np.ndarray, other_geometry: Geometry, image: np.ndarray, geometry: Geometry):
    """Raises BadVolume where `other` lies elsewhere than the image that it belongs to."""
    if other.shape != image.shape:
        raise BadVolume(f"the {what}'s grid {other.shape} is not the image's {image.shape}")
    a, b = other_geometry.canonical_affine, geometry.canonical_affine
    if (a is None) != (b is None):
        raise BadVolume(f"the {what} and the image are not of one format: one has a geometry, the other has none")
    if a is None:
        return
    shift = _most_apart(a, b, image.shape)
    if shift > AFFINE_TOLERANCE * min(geometry.voxel_mm):
        raise BadVolume(f"the {what} lies up to {shift:.1f} mm off the image (their affines differ)")


def nifti_bytes(data: np.ndarray, space: nib.Nifti1Header | np.ndarray | None, mark: str = "") -> bytes:
    """A `.nii.gz` file whose header holds geometry and `mark`, nothing else; the same bytes for the same input.

    space: of a `Geometry`, for what lies where its scan does; or an affine.
    """
    if not isinstance(space, nib.Nifti1Header):
        space = _space_of(np.eye(4) if space is None else space)
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
    """Write a `.nii.gz` (see `nifti_bytes`); it appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)  # a link that somebody put there is not followed
    with part.open("xb") as file:
        file.write(nifti_bytes(data, space))
    part.rename(path)


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split()).partition(": ")[0]  # what follows quotes the header: anything may stand there
    return said[:200] or type(error).__name__
