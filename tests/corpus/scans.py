"""Files that are no usable scans, each with the reason it must be refused for; and odd ones that are."""
# ruff: noqa: E501 - a line an input

import gzip
import pickle
from collections.abc import Callable
from typing import NamedTuple

import nibabel as nib
import numpy as np

from tests.corpus.files import (
    ADC,
    AFFINE,
    DWI,
    MASK,
    SHAPE,
    Trap,
    bomb,
    moved,
    nifti,
    npy,
    npy_that_says,
    packed,
    sheared,
)  # fmt: skip


class File(NamedTuple):
    """What a file is, its bytes (made when asked for), and words of the reason, or of the line about its repair."""

    what: str
    content: Callable[[], bytes]
    words: str


def _dims(*dim: int) -> dict:
    return {"dim": [*dim, *[1] * (8 - len(dim))]}


def _set(data: np.ndarray, at, value) -> np.ndarray:
    data = data.copy()
    data[at] = value
    return data


def _damaged(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 16]) + blob[at + 1 :]


LIES = "more than|cut short"
NO_NIFTI = "not readable as NIfTI"
NOT_BRAIN = "not that of a brain scan"

IMAGES = [
    # packing
    File("an empty file", lambda: b"", NO_NIFTI),
    File("zeros", lambda: bytes(4000), NO_NIFTI),
    File("text", lambda: b"this is no scan\n" * 100, NO_NIFTI),
    File("HTML of a failed download", lambda: b"<!doctype html><title>404</title>" * 30, NO_NIFTI),
    File("half a gzip header", lambda: b"\x1f\x8b", NO_NIFTI),
    File("gzip of nothing", lambda: packed(b""), NO_NIFTI),
    File("gzip cut in its header", lambda: packed(nifti())[:200], "cut short|not readable"),
    File("gzip cut in its voxels", lambda: packed(nifti())[:4000], "cut short"),
    File("gzip without its last byte", lambda: packed(nifti())[:-1], "cut short"),
    File("gzip with a wrong checksum", lambda: _damaged(packed(nifti()), -6), "damaged"),
    File("gzip with a wrong length", lambda: _damaged(packed(nifti()), -2), "damaged"),
    File("gzip with a flipped bit", lambda: _damaged(packed(nifti()), 6000), "damaged|cut short|more than"),
    File("gzip in gzip", lambda: packed(packed(nifti())), NO_NIFTI),
    File("gzip with another file behind it", lambda: packed(nifti()) + b"PATIENT: SOMCHAI", "other data follows"),
    File("two gzip members, the second cut", lambda: packed(nifti()[:900]) + packed(nifti()[900:])[:-9], "cut short"),
    File("a zip of a scan", lambda: b"PK\x03\x04" + nifti(), NO_NIFTI),
    File("a DICOM file", lambda: bytes(128) + b"DICM" + bytes(4000), NO_NIFTI),
    File("a gzip bomb behind an honest header", lambda: bomb(nifti(), 100), "more than"),
    File("a gzip bomb that lies about where the voxels start", lambda: bomb(nifti(vox_offset=1e9), 20), "start at byte"),
    File("a gzip bomb of the promised size", lambda: bomb(nifti(**_dims(3, 512, 512, 512)), 2), "no scan compresses so well"),
    File("a gzip bomb of an absurd size", lambda: bomb(nifti(**_dims(3, 2048, 2048, 16)), 2), NOT_BRAIN),
    File("a gzip bomb of many members", lambda: nifti_then_empty_members(200_000), "members"),
    # what the header says
    File("a plain file cut short", lambda: nifti()[:-1], "cut short"),
    File("a header alone", lambda: nifti()[:352], "cut short"),
    File("half a header", lambda: nifti()[:170], NO_NIFTI),
    File("more slices promised than there are", lambda: packed(nifti(**_dims(3, 32, 24, 50))), "cut short"),
    File("fewer slices promised than there are", lambda: nifti(np.tile(DWI, 5), **_dims(3, 32, 24, 5)), LIES),
    File("two axes", lambda: nifti(DWI[:, :, 0]), "not a 3-D volume"),
    File("one axis", lambda: nifti(DWI[:, 0, 0]), "not a 3-D volume"),
    File("no axes", lambda: nifti(**_dims(0, 32, 24, 5)), "not a 3-D volume|not readable"),
    File("four axes", lambda: nifti(np.stack([DWI, DWI], 3)), "not a 3-D volume"),
    File("five axes", lambda: nifti(DWI[..., None, None]), "not a 3-D volume"),
    File("99 axes", lambda: nifti(**_dims(99, 32, 24, 5)), "not readable|not a 3-D volume"),
    File("an axis without length", lambda: nifti(**_dims(3, 32, 0, 5)), NOT_BRAIN),
    File("an axis of negative length", lambda: nifti(**_dims(3, 32, -24, 5)), NOT_BRAIN),
    File("axes of absurd length", lambda: nifti(**_dims(3, 32767, 32767, 32767)), NOT_BRAIN),
    File("one absurdly long axis", lambda: packed(nifti(np.zeros((16, 16, 4000), np.uint8))), NOT_BRAIN),
    File("a place of the voxels that is no number", lambda: nifti(vox_offset=np.nan), NO_NIFTI),
    File("a place of the voxels beyond the file", lambda: nifti(vox_offset=1e30), "start at byte"),
    File("an unknown data type", lambda: nifti(datatype=999), NO_NIFTI),
    File("another magic word", lambda: nifti(magic=b"abcd"), NO_NIFTI),
    File("a header whose voxels are in another file", lambda: nifti(magic=b"ni1\0"), NO_NIFTI),
    File("Analyze 7.5", lambda: nifti(magic=bytes(4)), NO_NIFTI),
    File("NIfTI-2", lambda: nib.Nifti2Image(DWI, AFFINE).to_bytes(), NO_NIFTI),
    File("an intercept that is no number", lambda: nifti(scl_slope=1, scl_inter=np.nan), NO_NIFTI),
    File("an infinite slope", lambda: nifti(scl_slope=np.inf, scl_inter=0), "scale"),
    # where it lies
    File("an affine with NaN", lambda: nifti(srow_x=[2, 0, 0, np.nan]), "not finite"),
    File("an infinite affine", lambda: nifti(srow_y=[0, np.inf, 0, 0]), "not finite"),
    File("an affine of zeros", lambda: nifti(srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4), "singular"),
    File("an affine without a third axis", lambda: nifti(srow_z=[0] * 4), "singular"),
    File("two parallel axes", lambda: nifti(srow_x=[2, 2, 0, 0], srow_y=[0, 0, 0, 0]), "singular"),
    File("axes at 60 degrees", lambda: nifti(affine=sheared(30)), "right angles"),
    File("voxels of zero size", lambda: nifti(sform_code=0, qform_code=0, pixdim=[1, 0, 0, 0, 0, 0, 0, 0]), "singular"),
    File("voxels of negative size", lambda: nifti(sform_code=0, qform_code=1, pixdim=[1, -2, 2, 5, 0, 0, 0, 0]), NO_NIFTI),
    File("voxels of a micrometre", lambda: nifti(affine=np.diag([0.001, 0.001, 0.001, 1])), NOT_BRAIN),
    File("voxels of a metre", lambda: nifti(affine=np.diag([1000, 1000, 1000, 1])), NOT_BRAIN),
    File("voxels of no finite size", lambda: nifti(sform_code=0, qform_code=0, pixdim=[1, np.inf, 2, 5, 0, 0, 0, 0]), "not finite"),
    File("a quaternion that is none", lambda: nifti(sform_code=0, qform_code=1, quatern_b=9), "not a rotation"),
    File("a head a kilometre away", lambda: nifti(affine=moved(1e6, 0, 0)), "from the scanner"),
    # what it shows
    File("one slice", lambda: nifti(DWI[:, :, :1]), "at least 3"),
    File("two slices", lambda: nifti(DWI[:, :, :2]), "at least 3"),
    File("a plane of 15 pixels", lambda: nifti(DWI[:15]), "below 16 pixels"),
    File("zeros everywhere", lambda: nifti(DWI * 0), "constant"),
    File("one value everywhere", lambda: nifti(np.full(SHAPE, 7, np.int16)), "constant"),
    File("one voxel NaN", lambda: nifti(_set(DWI, (3, 3, 3), np.nan)), "NaN or infinite"),
    File("NaN everywhere", lambda: nifti(np.full(SHAPE, np.nan, np.float32)), "NaN or infinite"),
    File("one voxel infinite", lambda: nifti(_set(DWI, (3, 3, 3), np.inf)), "NaN or infinite"),
    File("values beyond single precision", lambda: nifti(DWI.astype(np.float64) * 1e300), "NaN or infinite"),
    File("values that overflow where they are squared", lambda: nifti(DWI * np.float32(1e35)), "intensities"),
    File("a slope that makes them overflow", lambda: nifti(scl_slope=3e38, scl_inter=0), "NaN or infinite"),
    File("values that vanish", lambda: nifti(DWI * np.float32(1e-42)), "intensities"),
    File("a mask in the scan's place", lambda: nifti(MASK), "only two values"),
    File("a mask of 0 and 255 in the scan's place", lambda: nifti(MASK * np.uint8(255)), "only two values"),
    File("complex numbers", lambda: nifti(DWI.astype(np.complex64)), "holds no intensities"),
    File("colours", lambda: nib.Nifti1Image(np.zeros(SHAPE, [(c, "u1") for c in "RGB"]), AFFINE).to_bytes(), "holds no intensities"),
]  # fmt: skip
"""Content of sub-bad_dwi.nii.gz; refused by ingest, check-data, predict and serve alike."""


def nifti_then_empty_members(members: int) -> bytes:
    """Complete in its first member; the millions that follow hold nothing, and take time alone."""
    return packed(nifti()) + gzip.compress(b"", mtime=0) * members


def _said(descr: str, shape: str, order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


NO_NPY = "not readable as .npy"
ARRAYS = [
    File("an empty file", lambda: b"", NO_NPY),
    File("the magic word alone", lambda: b"\x93NUMPY", NO_NPY),
    File("text", lambda: b"no array", NO_NPY),
    File("an unknown version", lambda: npy(DWI).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09", 1), NO_NPY),
    File("a NIfTI file", nifti, NO_NPY),
    File("an .npz archive", lambda: b"PK\x03\x04 no archive", NO_NPY),
    File("a bare pickle", lambda: pickle.dumps(Trap()), NO_NPY),
    File("an array of objects", lambda: npy(np.array([Trap()], dtype=object)), NO_NPY),
    File("a header that is a call", lambda: npy_that_says("__import__('os').mkdir('unpickled')"), NO_NPY),
    File("a header that is no dictionary", lambda: npy_that_says("[1, 2, 3]"), NO_NPY),
    File("a header with more in it", lambda: npy_that_says(_said("'<f4'", "(3, 3, 3)")[:-1] + "'more': 1}"), NO_NPY),
    File("a header of brackets", lambda: npy_that_says("(" * 9000), NO_NPY),
    File("a header of signs", lambda: npy_that_says("-" * 9000 + "1"), NO_NPY),
    File("a header of four gigabytes", lambda: b"\x93NUMPY\x02\x00" + b"\xff" * 4 + bytes(99), NO_NPY),
    File("cut short by a byte", lambda: npy(DWI)[:-1], NO_NPY),
    File("more values promised than there are", lambda: npy_that_says(_said("'<f4'", "(32, 24, 500)"), DWI.tobytes()), NO_NPY),
    File("fewer values promised than there are", lambda: npy(DWI[:, :, :4]) + DWI.tobytes(), "more than"),
    File("a size beyond all memory", lambda: npy_that_says(_said("'<f4'", "(10**9, 10**9, 10**9)")), NO_NPY),
    File("a negative size", lambda: npy_that_says(_said("'<f4'", "(-32, 24, 5)"), DWI.tobytes()), NO_NPY),
    File("an overflowing size", lambda: npy_that_says(_said("'<f4'", "(4294967296, 4294967296, 4)")), NO_NPY),
    File("no axes", lambda: npy(np.float32(3)), "not a 3-D volume"),
    File("one axis", lambda: npy(DWI[:, 0, 0]), "not a 3-D volume"),
    File("four axes", lambda: npy(np.stack([DWI] * 2, 3)), "not a 3-D volume"),
    File("five axes", lambda: npy(DWI[..., None, None]), "not a 3-D volume"),
    File("an axis without length", lambda: npy(DWI[:, :0]), f"{NOT_BRAIN}|{NO_NPY}"),
    File("one slice", lambda: npy(DWI[:, :, 0]), "at least 3"),
    File("slices first", lambda: npy(np.zeros((5, 32, 32), np.float32)), r"looks like \(slices, X, Y\)"),
    File("complex numbers", lambda: npy(DWI.astype(np.complex64)), "holds no intensities"),
    File("records", lambda: npy(np.zeros(SHAPE, [("a", "f4"), ("b", "f4")])), "holds no intensities"),
    File("words", lambda: npy(np.full(SHAPE, "abc")), "holds no intensities"),
    File("bytes", lambda: npy(np.full(SHAPE, b"abc")), "holds no intensities"),
    File("dates", lambda: npy(np.zeros(SHAPE, "M8[s]")), "holds no intensities"),
    File("raw memory", lambda: npy(np.zeros(SHAPE, "V4")), "holds no intensities"),
    File("one value everywhere", lambda: npy(np.ones(SHAPE)), "constant"),
    File("NaN", lambda: npy(_set(DWI, (1, 2, 3), np.nan)), "NaN or infinite"),
    File("a mask", lambda: npy(MASK.astype(bool)), "only two values"),
]  # fmt: skip
"""Content of images/Bad.npy; refused by ingest and check-data."""

MASKS = [
    File("the scan itself (swapped)", nifti, "not binary"),
    File("three labels", lambda: nifti(_set(MASK, (16, 12, 2), 2)), "not binary"),
    File("0 and 255", lambda: nifti(MASK * np.uint8(255)), "not binary"),
    File("probabilities", lambda: nifti(MASK * np.float32(0.4)), "not binary"),
    File("-1 and 0", lambda: nifti(-MASK.astype(np.int16)), "not binary"),
    File("a scale that makes it 0 and 2", lambda: nifti(MASK, scl_slope=2, scl_inter=0), "not binary"),
    File("one everywhere", lambda: nifti(np.ones(SHAPE, np.uint8)), "1 everywhere"),
    File("inverted", lambda: nifti(1 - MASK), "inverted"),
    File("NaN", lambda: nifti(_set(MASK.astype(np.float32), (0, 0, 0), np.nan)), "NaN or infinite"),
    File("a slice too few", lambda: nifti(MASK[:, :, 1:]), "grid"),
    File("rows and columns exchanged", lambda: nifti(MASK.swapaxes(0, 1)), "grid"),
    File("a slice further up", lambda: nifti(MASK, moved(0, 0, 5)), "off the image"),
    File("half a voxel aside", lambda: nifti(MASK, moved(1, 0, 0)), "off the image"),
    File("other voxels", lambda: nifti(MASK, np.diag([2, 2, 5.5, 1])), "off the image"),
    File("on the other side", lambda: nifti(MASK, AFFINE * [[-1], [1], [1], [1]]), "off the image"),
    File("four axes", lambda: nifti(np.stack([MASK] * 2, 3)), "not a 3-D volume"),
    File("complex numbers", lambda: nifti(MASK.astype(np.complex64)), "holds no intensities"),
    File("cut short", lambda: packed(nifti(MASK))[:-30], "cut short"),
    File("an empty file", lambda: b"", NO_NIFTI),
    File("a singular affine", lambda: nifti(MASK, srow_z=[0] * 4), "singular"),
]  # fmt: skip
"""Content of the mask beside a good scan; the case is refused."""

ADC_MAPS = [
    File("an empty file", lambda: b"", NO_NIFTI),
    File("cut short", lambda: packed(nifti(ADC))[:-9], "cut short"),
    File("zeros", lambda: nifti(ADC * 0), "no positive values"),
    File("negative", lambda: nifti(-ADC), "no positive values"),
    File("in no unit in use", lambda: nifti(ADC * np.float32(1e7)), "fit none of"),
    File("NaN", lambda: nifti(_set(ADC, (1, 1, 1), np.nan)), "NaN or infinite"),
    File("infinite once it is in the unit that is kept", lambda: nifti(_set(ADC * np.float32(1e-3), (1, 1, 1), 1e37)), "NaN or infinite"),
    File("another grid", lambda: nifti(ADC[:, :, :4]), "grid"),
    File("shifted", lambda: nifti(ADC, moved(0, 0, 5)), "off the image"),
    File("four axes", lambda: nifti(np.stack([ADC] * 2, 3)), "not a 3-D volume"),
]  # fmt: skip
"""Content of the ADC map beside a good scan: it is left out with a line, and the case goes on."""

NOTED = [
    File("a trailing axis of one", lambda: nifti(DWI[..., None]), "dropped a trailing axis"),
    File("no orientation", lambda: nifti(sform_code=0, qform_code=0), "no orientation in the header"),
    File("two orientations", lambda: two_orientations(), "two orientations"),
    File("two voxel sizes", lambda: nifti(pixdim=[1, 1, 1, 1, 0, 0, 0, 0], qform_code=0), "two voxel sizes"),
    File("in metres, by the header", lambda: nifti(xyzt_units=1), "taken as millimetres"),
]
"""Content of a scan that is taken, with a line about it."""


def two_orientations() -> bytes:
    image = nib.Nifti1Image(DWI, AFFINE)
    image.set_qform(AFFINE * [[-1], [1], [1], [1]], code=1)
    return image.to_bytes()


def _typed(dtype: str) -> Callable[[], bytes]:
    return lambda: nib.Nifti1Image(DWI.astype(dtype), AFFINE).to_bytes()


GOOD = [
    *[File(f"type {dtype}", _typed(dtype), "") for dtype in ("u1", "i2", "u2", "i4", "f4", "f8")],
    File("big-endian", lambda: nib.Nifti1Image(DWI, AFFINE, nib.Nifti1Header(endianness=">")).to_bytes(), ""),
    File("packed", lambda: packed(nifti()), ""),
    File("packed in eight members", lambda: b"".join(packed(nifti()[i : i + 2000]) for i in range(0, 16000, 2000)), ""),
    File("zeros after the voxels", lambda: nifti() + bytes(512), ""),
    File("zeros after the gzip content", lambda: packed(nifti()) + bytes(512), ""),
    File("below zero", lambda: nifti(DWI - 50), ""),
    File("oblique by a few degrees of shear", lambda: nifti(affine=sheared(3)), ""),
    File("a slope", lambda: nifti(DWI.astype(np.int16), scl_slope=0.5, scl_inter=3), ""),
]
"""Content of scans that are good as they are, and get no line."""

GOOD_ARRAYS = [
    *[File(f"type {t}", lambda t=t: npy(DWI.astype(t)), "") for t in ("u1", "<i2", ">i2", "<f2", "<f4", ">f4", ">f8")],
    File("Fortran order", lambda: npy(np.asfortranarray(DWI)), ""),
]
