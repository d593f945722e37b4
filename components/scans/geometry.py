"""The placement of a scan in space: its axes, its voxel size, and the NIfTI header fields that hold them."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt2axcodes, ornt_transform

AFFINE_TOLERANCE = 0.25
"""How far a mask or an ADC map may be off its image, in sides of the smallest voxel."""
MOST_FROM_CENTRE_MM = 1e4
LEAST_RIGHT_ANGLE = 0.98
"""A voxel's volume over the product of its sides: 1 at right angles, 0.98 if two of its axes are at 78 degrees."""
SAME_SIZE = 0.05
"""How far the two voxel sizes of a header may differ, as a share of the size."""
SAME_PLACE_MM = 0.1
"""Beyond this distance between the places that qform and sform give a voxel, the difference is reported."""
FORM_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip
"""The fields of a NIfTI header that place its voxels in space, besides their sizes."""
NIBABEL_LENGTH, ROUNDED_LENGTH = 1 + 3e-7, 1 + 2e-4
"""Largest squared length of a quaternion that nibabel accepts, and that rounding to four decimals gives."""


class BadVolume(Exception):
    """The reason why a file is not a usable volume."""


@dataclass(frozen=True)
class Geometry:
    """The placement of a stored array in space.

    shape: as stored, with a trailing axis of length one. affine: voxel to RAS+ millimetres, None if the file has no
    geometry. repairs: what reading assumed or dropped, as text. space: a header with the file's placement alone (qform,
    sform, both codes, voxel sizes, unit): other programs place a file with this header where they place the scan.
    """

    shape: tuple[int, ...]
    affine: np.ndarray | None
    repairs: tuple[str, ...] = ()
    space: nib.Nifti1Header | None = None

    @property
    def orientation(self) -> str | None:
        """The anatomical directions of the stored axes, such as "LPS"; None without an affine."""
        return None if self.affine is None else "".join(ornt2axcodes(_closest_axes(self.affine)))

    @property
    def voxel_mm(self) -> tuple[float, float, float] | None:
        """Voxel size along the canonical axes, millimetres; None without an affine."""
        if self.canonical_affine is None:
            return None
        x, y, z = nib.affines.voxel_sizes(self.canonical_affine)
        return float(x), float(y), float(z)

    def canonical(self, data: np.ndarray) -> np.ndarray:
        """Turn a stored array to (X, Y, S) in RAS+."""
        data = data.reshape(self.shape[:3])
        return data if self.affine is None else apply_orientation(data, _to_canonical(self.affine))

    def native(self, data: np.ndarray) -> np.ndarray:
        """Turn (X, Y, S) in RAS+ back to the stored axes and shape, exactly."""
        if self.affine is not None:
            data = apply_orientation(data, ornt_transform(axcodes2ornt("RAS"), _closest_axes(self.affine)))
        return data.reshape(self.shape)

    @property
    def canonical_affine(self) -> np.ndarray | None:
        """The affine of the volume in RAS+."""
        return None if self.affine is None else self.affine @ self._turn(self.affine)

    @property
    def canonical_space(self) -> nib.Nifti1Header | None:
        """The header `space` for the volume in RAS+: the sform and the qform, if they exist, turned alike."""
        if self.space is None or self.affine is None:
            return None
        turn = self._turn(self.affine)
        sform, qform = self.space.get_sform(coded=True), _qform(self.space)
        if sform[0] is None and qform is None:
            return space_of_affine(self.affine @ turn)
        space = nib.Nifti1Header()
        space.set_xyzt_units("mm")
        space["pixdim"][1:4] = self.voxel_mm
        if sform[0] is not None:
            space.set_sform(sform[0] @ turn, int(sform[1]))
        if qform is not None:
            space.set_qform(qform @ turn, int(self.space["qform_code"]))
        return space

    def _turn(self, affine: np.ndarray) -> np.ndarray:
        """The affine (4, 4) from voxels of the volume in RAS+ to stored voxels."""
        return nib.orientations.inv_ornt_aff(_to_canonical(affine), self.shape[:3])


def _to_canonical(affine: np.ndarray) -> np.ndarray:
    return ornt_transform(_closest_axes(affine), axcodes2ornt("RAS"))


def _closest_axes(affine: np.ndarray) -> np.ndarray:
    """Return the anatomical axis and direction closest to each stored one.

    A tie (45 degrees) leaves the axes as they are: if rounding decided, a canonical volume might be turned again.
    """
    return io_orientation(affine + np.diag([*(1e-4 * nib.affines.voxel_sizes(affine)), 0]))


def require_same_grid(
    what: str, other: np.ndarray, other_geometry: Geometry, image: np.ndarray, geometry: Geometry
) -> None:
    """Check that a volume (X, Y, S) has the grid of the image that it belongs to; `what` names it in the message.

    Raises:
        BadVolume: its shape or its place differs.
    """
    if other.shape != image.shape:
        raise BadVolume(f"the {what}'s grid {other.shape} is not the image's {image.shape}")
    a, b = other_geometry.canonical_affine, geometry.canonical_affine
    if (a is None) != (b is None):
        raise BadVolume(f"the {what} and the image are not of one format: one has a geometry, the other does not")
    if a is None or b is None:
        return
    shift = largest_distance(a, b, image.shape)
    if shift > AFFINE_TOLERANCE * min(nib.affines.voxel_sizes(b)):
        raise BadVolume(f"the {what} is up to {shift:.1f} mm off the image (their affines differ)")


def check_affine(affine: np.ndarray) -> None:
    """Check that an affine (4, 4) is possible for a brain scan.

    Raises:
        BadVolume: it is not.
    """
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


def read_space(head: nib.Nifti1Header) -> tuple[nib.Nifti1Header, tuple[str, ...]]:
    """Return the placement of a header, corrected as the standard and rounding require, and the corrections as text.

    Raises:
        BadVolume: only the qform places the voxels, and it is not a rotation.
    """
    space = nib.Nifti1Header()
    for field in (*FORM_FIELDS, "dim"):
        space[field] = head[field]
    space["pixdim"][:4], space["xyzt_units"] = head["pixdim"][:4], int(head["xyzt_units"]) & 7
    if not space["qform_code"]:
        return space, ()
    corrections, qfac, qform_counts = [], float(space["pixdim"][0]), not space["sform_code"]
    if qfac == 0:
        space["pixdim"][0] = 1
        corrections.append("qfac (pixdim[0]) is 0 in the header: taken as 1, as the NIfTI standard says")
    elif abs(qfac) != 1 and qform_counts:
        raise BadVolume(f"the header's qfac (pixdim[0]) is {qfac:g}, not 1 or -1: its qform is not a rotation")
    quaternion = np.array([space[f"quatern_{axis}"] for axis in "bcd"], np.float64)
    squared = float(quaternion @ quaternion)
    if NIBABEL_LENGTH < squared <= ROUNDED_LENGTH:
        for axis, value in zip("bcd", quaternion / np.sqrt(squared), strict=True):
            space[f"quatern_{axis}"] = value
        corrections.append(f"the header's quaternion has length {np.sqrt(squared):.7g} by rounding: made 1")
    elif not squared <= ROUNDED_LENGTH and qform_counts:
        raise BadVolume(
            f"the header's quaternion has length {np.sqrt(squared):.3g}, not 1: its qform is not a rotation"
        )
    return space, tuple(corrections)


def _qform(space: nib.Nifti1Header) -> np.ndarray | None:
    """Return the affine of the qform; None if the header has no qform or an invalid one."""
    try:
        affine = space.get_qform(coded=True)[0]
    except (nib.spatialimages.HeaderDataError, ValueError):
        return None
    return affine if affine is not None and np.isfinite(affine).all() else None


def space_of_affine(affine: np.ndarray) -> nib.Nifti1Header:
    """Return a header that holds only this placement, in millimetres."""
    space = nib.Nifti1Header()
    space.set_sform(affine, "aligned")
    space.set_qform(affine, "unknown")
    space.set_xyzt_units("mm")
    return space


def assumptions(space: nib.Nifti1Header, affine: np.ndarray) -> tuple[str, ...]:
    """Return what the header leaves open or contradicts, and how it was read, as text."""
    assumed = []
    sform, qform = int(space["sform_code"]) > 0, _qform(space)
    if not sform and qform is None:
        assumed.append("no orientation in the header: assumed as the NIfTI standard says (LAS)")
    if sform:
        sides, stated = nib.affines.voxel_sizes(affine), np.abs(space["pixdim"][1:4])
        if (np.abs(stated - sides) > SAME_SIZE * sides).any():
            assumed.append(f"the header holds two voxel sizes: {_sides(sides)} taken, not {_sides(stated)}")
    if sform and qform is not None:
        apart = largest_distance(affine, qform, space.get_data_shape()[:3])
        same_axes = ornt2axcodes(_closest_axes(qform)) == ornt2axcodes(_closest_axes(affine))
        if apart > SAME_PLACE_MM or not same_axes:
            what = "places for the scan" if same_axes else "orientations"
            assumed.append(
                f"the header holds two {what}, up to {apart:.1f} mm apart: that of the sform taken, not that of the "
                "qform, which some other programs take"
            )
    unit = int(space["xyzt_units"])
    if unit not in (0, 2):
        assumed.append("the header's unit is not the millimetre: taken as millimetres")
    return tuple(assumed)


def largest_distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the largest distance between the places that two affines give a voxel of a grid, mm: that of a corner."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    return float(np.linalg.norm((a - b)[:3, :3] @ corners + (a - b)[:3, 3:], axis=0).max())


def _sides(millimetres: np.ndarray) -> str:
    return " x ".join(f"{side:.3g}" for side in millimetres) + " mm"
