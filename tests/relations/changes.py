"""Changes of a scan that its prediction must outlive, each with the way home for what was predicted.

A change is a function from a `Scan` to a `Changed`: another file, and a function that brings an array on that file's
grid back to the scan's own. `RELATIONS` lists them. The exact ones keep every voxel of the head: in another frame,
unit, type or order. The loose ones make a scan that the same scanner might have taken of the same head.
"""

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage
from skimage.filters import threshold_multiotsu
from skimage.transform import resize

AIR_MARGIN_MM = 8.0
"""What lies farther from the head than this is air beyond doubt."""
HEAD_LENGTH_MM, HEAD_ML = 180.0, 1400.0
"""Of an adult's brain, front to back and in all: they stand in for the voxel size of a `.npy`, which has none."""
NOISE = 0.01
ROTATION_DEGREES = 5.0
MOST_INT16 = 30_000

Home = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan as its file stores it: voxels (X, Y, S), the first axis being the left-right one.

    affine: voxel to RAS+ millimetres; None is a `.npy`.
    """

    name: str
    voxels: np.ndarray
    affine: np.ndarray | None

    @cached_property
    def head(self) -> np.ndarray:
        """The head (X, Y, S), dim scalp and face included, by a rule that is not the product's.

        Otsu's lower threshold of two (air, dim, bright) of the smoothed scan, its intensities cut at the 95th
        percentile lest lesions set it; of what is above it the largest piece, its holes filled slice by slice.
        """
        smooth = ndimage.gaussian_filter(self.voxels.astype(np.float32), (1, 1, 0.5))
        smooth = smooth.clip(None, np.percentile(smooth, 95))
        pieces, _ = ndimage.label(smooth > threshold_multiotsu(smooth, 3)[0])
        largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
        return np.stack([ndimage.binary_fill_holes(largest[:, :, s]) for s in range(largest.shape[2])], axis=2)

    @cached_property
    def not_air(self) -> np.ndarray:
        """The head's silhouette seen from above and `AIR_MARGIN_MM` around it, in every slice that near (X, Y, S)."""
        mm = self.voxel_mm
        around = ndimage.distance_transform_edt(~self.head.any(2), sampling=mm[:2]) <= AIR_MARGIN_MM
        level = ndimage.distance_transform_edt(~self.head.any((0, 1)), sampling=mm[2]) <= AIR_MARGIN_MM
        return around[:, :, None] & level

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Of a `.npy` reckoned from the head's length, the same along all axes."""
        if self.affine is not None:
            return tuple(nib.affines.voxel_sizes(self.affine))
        length = np.ptp(np.argwhere(self.head.any(2)), axis=0).max()
        return (HEAD_LENGTH_MM / length,) * 3

    @property
    def voxel_ml(self) -> float:
        """Of a `.npy` reckoned from the head's volume."""
        return HEAD_ML / float(self.head.sum()) if self.affine is None else float(np.prod(self.voxel_mm)) / 1000


@dataclass(frozen=True)
class Changed:
    """A file and the way home from its grid.

    of_probability: the way home is for probabilities, by linear interpolation, and the model's own threshold is
    applied after it. To bring a mask home by the nearest voxel costs a lesion of few voxels Dice whatever the model
    does. What linear interpolation costs there and back, 1 to 4 % of Dice on the real scans, is left in.
    """

    file: str
    content: bytes
    home: Home
    of_probability: bool = False


class Relation(NamedTuple):
    """exact: the prediction may change by 2 % of its volume with Dice 0.98 or more; else by 15 % with 0.9."""

    name: str
    change: Callable[[Scan], Changed]
    exact: bool = True


def stored(scan: Scan, voxels: np.ndarray, affine: np.ndarray | None = None) -> tuple[str, bytes]:
    """Name and content of a file of the scan's kind, `affine` being the scan's own where it is not given."""
    if scan.affine is None:
        file = io.BytesIO()
        np.save(file, voxels)
        return "scan.npy", file.getvalue()
    return "scan.nii.gz", nifti(voxels, scan.affine if affine is None else affine)


def nifti(voxels: np.ndarray, affine: np.ndarray, sform=1, qform=1, scaling=(None, None), packed=True) -> bytes:
    """A NIfTI file with the affine in the header's forms of a code above 0; byte order as in `voxels`."""
    header = nib.Nifti1Header(endianness=">" if voxels.dtype.byteorder == ">" else "<")
    image = nib.Nifti1Image(voxels, affine, header)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    image.header.set_slope_inter(*scaling)
    image.header.set_xyzt_units("mm")
    blob = image.to_bytes()
    return gzip.compress(blob, compresslevel=1, mtime=0) if packed else blob


def as_it_is(data: np.ndarray) -> np.ndarray:
    return data


def reframed(before: tuple, after: tuple) -> Callable[[Scan], Changed]:
    """So many voxels of zeros more at the start and at the end of each axis; a share of the axis where below 1."""

    def change(scan: Scan) -> Changed:
        voxels = [
            [round(n * length) if n < 1 else n for n, length in zip(side, scan.voxels.shape, strict=True)]
            for side in (before, after)
        ]
        return _reframed(scan, *voxels)

    return change


def cropped(*sides: tuple[int, int]) -> Callable[[Scan], Changed]:
    """Without the air on these sides: (axis, 0) is its start, (axis, 1) its end."""

    def change(scan: Scan) -> Changed:
        cuts = np.zeros((2, 3), int)
        for axis, side in sides:
            inside = np.flatnonzero(scan.not_air.any(tuple({0, 1, 2} - {axis})))
            cuts[side, axis] = inside[0] if side == 0 else scan.voxels.shape[axis] - 1 - inside[-1]
        return _reframed(scan, -cuts[0], -cuts[1])

    return change


def _reframed(scan: Scan, before, after) -> Changed:
    """As `reframed`, with less where a number is negative."""

    def moved(data: np.ndarray, before, after) -> np.ndarray:
        ends = list(zip(before, after, data.shape, strict=True))
        kept = data[tuple(slice(max(-b, 0), n - max(-a, 0)) for b, a, n in ends)]
        return np.pad(kept, [(max(b, 0), max(a, 0)) for b, a, _ in ends])

    before, after = np.asarray(before), np.asarray(after)
    affine = None if scan.affine is None else scan.affine @ nib.affines.from_matvec(np.eye(3), -before)
    file = stored(scan, moved(scan.voxels, before, after), affine)
    return Changed(*file, partial(moved, before=-before, after=-after))


def intensities(scale: float = 1.0, offset: float = 0.0) -> Callable[[Scan], Changed]:
    def change(scan: Scan) -> Changed:
        return Changed(*stored(scan, (scan.voxels.astype(float) * scale + offset).astype(np.float32)), as_it_is)

    return change


def of_type(dtype: str) -> Callable[[Scan], Changed]:
    """Whole numbers are rounded, after a scaling that uses their range."""

    def change(scan: Scan) -> Changed:
        voxels = scan.voxels
        if np.dtype(dtype).kind == "i":
            voxels = np.round(voxels * (MOST_INT16 / np.abs(voxels).max()))
        return Changed(*stored(scan, voxels.astype(dtype)), as_it_is)

    return change


def slope_and_intercept(scan: Scan) -> Changed:
    """As int16 that the header's slope and intercept turn into the scan's own intensities."""
    low, high = float(scan.voxels.min()), float(scan.voxels.max())
    slope = (high - low) / (2 * MOST_INT16)
    whole = np.round((scan.voxels - low) / slope - MOST_INT16).astype(np.int16)
    blob = nifti(whole, scan.affine, scaling=(slope, low + slope * MOST_INT16))
    return Changed("scan.nii.gz", blob, as_it_is)


def axes_and_flips(codes: str) -> Callable[[Scan], Changed]:
    """The stored axes in the order and directions of the code ("LPS"), and the affine that says so."""

    def change(scan: Scan) -> Changed:
        own, other = io_orientation(scan.affine), axcodes2ornt(codes)
        way = ornt_transform(own, other)
        affine = scan.affine @ inv_ornt_aff(way, scan.voxels.shape)
        file = stored(scan, apply_orientation(scan.voxels, way), affine)
        return Changed(*file, lambda data: apply_orientation(data, ornt_transform(other, own)))

    return change


def header(file: str = "scan.nii.gz", **form) -> Callable[[Scan], Changed]:
    """Written with another form of header (see `nifti`)."""
    return lambda scan: Changed(file, nifti(_float32(scan), scan.affine, **form), as_it_is)


def trailing_axis(scan: Scan) -> Changed:
    return Changed(*stored(scan, _float32(scan)[..., None]), lambda data: data.reshape(scan.voxels.shape))


def renamed(scan: Scan) -> Changed:
    suffix = ".NPY" if scan.affine is None else ".NII.GZ"
    return Changed(f"Patient_000_Slice_007 (copy of copy){suffix}", stored(scan, scan.voxels)[1], as_it_is)


def black_air(scan: Scan) -> Changed:
    return Changed(*stored(scan, np.where(scan.not_air, scan.voxels, 0)), as_it_is)


def resampled(factor: float) -> Callable[[Scan], Changed]:
    """So many times as many pixels along both in-plane axes, over the same field of view; linear."""

    def change(scan: Scan) -> Changed:
        shape = scan.voxels.shape
        fewer_or_more = (round(shape[0] * factor), round(shape[1] * factor), shape[2])
        step = np.divide(shape, fewer_or_more)
        # The fields of view's corners coincide, not the centres of their first voxels.
        way = nib.affines.from_matvec(np.diag(step), (step - 1) / 2)
        file = stored(scan, _resized(scan.voxels, fewer_or_more), None if scan.affine is None else scan.affine @ way)
        return Changed(*file, partial(_resized, shape=shape), of_probability=True)

    return change


def _resized(data: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Linear; smoothed first where pixels get larger, as larger pixels measure."""
    coarser = shape[0] < data.shape[0]
    return resize(data.astype(np.float32), shape, order=1, mode="edge", anti_aliasing=coarser, preserve_range=True)


def mirrored(scan: Scan) -> Changed:
    """The head's mirror image, in the same place: left becomes right."""
    return Changed(*stored(scan, scan.voxels[::-1]), lambda data: data[::-1])


def noisy(scan: Scan) -> Changed:
    """Gaussian noise of 1 % of the head's median, everywhere."""
    sigma = NOISE * float(np.median(scan.voxels[scan.head]))
    noise = np.random.default_rng(0).normal(0, sigma, scan.voxels.shape)
    return Changed(*stored(scan, (scan.voxels + noise).astype(np.float32)), as_it_is)


def rotated(scan: Scan) -> Changed:
    """The head turned in the plane about the middle of the field of view, whose pixels are square; linear."""

    def turn(data: np.ndarray, degrees: float) -> np.ndarray:
        return ndimage.rotate(data.astype(np.float32), degrees, axes=(0, 1), reshape=False, order=1, mode="nearest")

    return Changed(*stored(scan, turn(scan.voxels, ROTATION_DEGREES)), partial(turn, degrees=-ROTATION_DEGREES), True)


def axes_swapped(scan: Scan) -> Changed:
    """Rows for columns, as other readers of DICOM store a slice; a `.npy` cannot say so."""
    return Changed(*stored(scan, scan.voxels.swapaxes(0, 1)), lambda data: data.swapaxes(0, 1))


def _float32(scan: Scan) -> np.ndarray:
    return scan.voxels.astype(np.float32)


SIXTH = 1 / 6
OF_ANY_FILE = [
    Relation("padded by a sixth, all sides", reframed((SIXTH, SIXTH, 0), (SIXTH, SIXTH, 0))),
    Relation("padded by odd numbers, unevenly", reframed((11, 0, 0), (3, 21, 0))),
    Relation("cropped, all sides", cropped((0, 0), (0, 1), (1, 0), (1, 1))),
    Relation("intensities x 0.01", intensities(0.01)),
    Relation("intensities + 500", intensities(offset=500)),
    Relation("intensities x 37 + 500", intensities(37, 500)),
    Relation("stored as int16", of_type("int16")),
    Relation("stored as float64", of_type("float64")),
    Relation("air set to zero", black_air),
    Relation("empty slices below and above", reframed((0, 0, 3), (0, 0, 5))),
    Relation("renamed", renamed),
    Relation("resampled by 0.7", resampled(0.7), exact=False),
    Relation("resampled by 1.4", resampled(1.4), exact=False),
    Relation("mirrored", mirrored, exact=False),
    Relation("noise of 1 %", noisy, exact=False),
    Relation("rotated by 5 degrees", rotated, exact=False),
]
OF_NIFTI = [
    Relation("padded by a sixth, start of x", reframed((SIXTH, 0, 0), (0, 0, 0))),
    Relation("padded by a sixth, end of x", reframed((0, 0, 0), (SIXTH, 0, 0))),
    Relation("padded by a sixth, start of y", reframed((0, SIXTH, 0), (0, 0, 0))),
    Relation("padded by a sixth, end of y", reframed((0, 0, 0), (0, SIXTH, 0))),
    Relation("cropped, start of x", cropped((0, 0))),
    Relation("cropped, end of x", cropped((0, 1))),
    Relation("cropped, start of y", cropped((1, 0))),
    Relation("cropped, end of y", cropped((1, 1))),
    Relation("cropped, slices", cropped((2, 0), (2, 1))),
    Relation("stored as big-endian float32", of_type(">f4")),
    Relation("stored as int16 with slope and intercept", slope_and_intercept),
    *(Relation(f"axes {codes}", axes_and_flips(codes)) for codes in ("LPS", "RAI", "SPL", "PSR")),
    Relation("qform alone", header(sform=0)),
    Relation("sform alone", header(qform=0)),
    Relation("not packed", header("scan.nii", packed=False)),
    Relation("trailing axis of length one", trailing_axis),
    Relation("empty slices below", reframed((0, 0, 3), (0, 0, 0))),
    Relation("empty slices above", reframed((0, 0, 0), (0, 0, 3))),
]
OF_NPY = [Relation("in-plane axes swapped", axes_swapped, exact=False)]


def relations(npy: bool) -> list[Relation]:
    """Those that hold for a `.npy`, or for a NIfTI file: the exact ones first."""
    return sorted(OF_ANY_FILE + (OF_NPY if npy else OF_NIFTI), key=lambda relation: not relation.exact)
