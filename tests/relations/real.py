"""The real scans of ../shared/data, where they are: one `Scan` for each file, and its expert or borrowed mask."""

from functools import cache

import nibabel as nib
import numpy as np

from tests.conftest import REAL_SCANS
from tests.relations.changes import Scan

NIFTI, NPY = REAL_SCANS / "isles-layout", REAL_SCANS / "npy-layout"
ABSENT = "needs the real scans in ../shared/data, which are not in the repository"


def nifti_names() -> list[str]:
    return sorted(path.name for path in NIFTI.glob("sub-*"))


def npy_names() -> list[str]:
    """Of a patient stored slice by slice one name: the slices are stacked as ingest stacks them."""
    return sorted({path.stem.partition("_Slice_")[0] for path in NPY.glob("images/*.npy")})


def names() -> list[str]:
    return nifti_names() + npy_names()


@cache
def scan(name: str) -> Scan:
    """The DWI by the name of its patient ("sub-ads01" is NIfTI, "Patient_001" `.npy`)."""
    if name in npy_names():
        return Scan(name, _stacked("images", name), None)
    (path,) = NIFTI.glob(f"{name}/*/dwi/*_dwi.nii.gz")
    image = nib.load(path)
    return Scan(name, np.asarray(image.dataobj), image.affine)


def truth(name: str) -> np.ndarray | None:
    """The mask (X, Y, S), as the scan is stored; None of a scan without."""
    if name in npy_names():
        return _stacked("masks", name) > 0
    paths = list(NIFTI.glob(f"derivatives/{name}/*/*_msk.nii.gz"))
    return np.asarray(nib.load(paths[0]).dataobj) > 0.5 if paths else None


def _stacked(kind: str, name: str) -> np.ndarray:
    slices = [np.load(path) for path in sorted(NPY.glob(f"{kind}/{name}*.npy"))]
    return slices[0] if slices[0].ndim == 3 else np.stack(slices, axis=2)
