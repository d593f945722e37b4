"""Strip the file of a scan: keep the voxels and their geometry, and drop all other content."""

import gzip
import io
from pathlib import Path

import nibabel as nib
import numpy as np

from components.scans.b_value import KINDS, as_file, in_file
from components.scans.prediction_mark import in_header
from components.scans.volumes import GZIP, read

KEPT = ("datatype", "bitpix", "scl_slope", "scl_inter", "xyzt_units")
"""Fields of a NIfTI header that stay, with the sizes and the mark of a prediction: no free text, no times. Extensions
and the file name and time in a gzip header go too."""
KEPT_IF_USED = {
    "qform_code": ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    "sform_code": ("srow_x", "srow_y", "srow_z"),
}
"""Fields that stay if their code is above 0. If it is 0, they have no meaning, and their bytes can be any text."""


def stripped(path: Path) -> bytes:
    """Return the content of a file of the same format with exactly the same voxels; the same bytes every time.

    For a file beside the scan that can hold its b-value, return that number alone, or nothing if there is none.

    Raises:
        BadVolume: the file is not a scan, so nothing tells which of its content may stay.
    """
    if path.suffix in KINDS:
        return _b_value(path)
    read(path)
    return _npy(path) if path.name.lower().endswith(".npy") else _nifti(path.read_bytes(), path.name)


def _b_value(path: Path) -> bytes:
    try:
        return as_file(path.suffix, in_file(path))
    except ValueError:
        return b""


def _npy(path: Path) -> bytes:
    out = io.BytesIO()
    np.save(out, np.load(path, allow_pickle=False, mmap_mode="r"), allow_pickle=False)
    return out.getvalue()


def _nifti(blob: bytes, name: str) -> bytes:
    with gzip.open(io.BytesIO(blob)) if blob.startswith(GZIP) else io.BytesIO(blob) as stored:
        head = stored.read(348)
        old = nib.Nifti1Header.from_fileobj(io.BytesIO(head), check=False)
        stored.seek(max(int(old["vox_offset"]), nib.Nifti1Header.single_vox_offset))
        voxels = stored.read(int(np.prod(old.get_data_shape())) * old.get_data_dtype().itemsize)
    new = nib.Nifti1Header(endianness=old.endianness)
    used = [name for code, fields in KEPT_IF_USED.items() if int(old[code]) > 0 for name in (code, *fields)]
    for field in (*KEPT, *used):
        new[field] = old[field]
    if mark := in_header(head):
        new["descrip"] = mark.text
    dimensions = int(old["dim"][0])
    new["dim"][: 1 + dimensions] = old["dim"][: 1 + dimensions]
    new["pixdim"][:4] = old["pixdim"][:4]
    new["vox_offset"] = new.single_vox_offset
    content = new.binaryblock + bytes(4) + voxels
    return gzip.compress(content, compresslevel=1, mtime=0) if name.lower().endswith(".gz") else content
