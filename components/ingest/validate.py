"""Validate one case: read its files, check them, and write canonical volumes without personal data."""

import hashlib
from pathlib import Path

import numpy as np

from components.artifacts.cases import Case, Source
from components.core.storage import file_sha256, local_path
from components.ingest.found_files import FoundCase
from components.ingest.label_masks import NO_PREDICTIONS, Predictions, with_label
from components.scans.adc import KEPT, from_b0, in_kept_unit
from components.scans.b_value import b_value
from components.scans.geometry import BadVolume, Geometry, require_same_grid
from components.scans.head import Head, find_head
from components.scans.left_right import left_right_axis
from components.scans.modality import require_dwi
from components.scans.near_duplicates import portrait
from components.scans.volumes import read, require_scan, write

BINARY_TOLERANCE = 1e-3
MOST_LESION = 0.5
MODALITY_ADVICE = 'If it is a DWI: SET="modality_check=false".'


def validate(
    found: FoundCase, source: Path, target: Path, b_value_set: float = 0, modality_check: bool = True,
    predictions: Predictions = NO_PREDICTIONS,
) -> Case:  # fmt: skip
    """Validate one downloaded case, write its canonical, de-identified volumes to `target`, and describe it.

    Args:
        found: The keys of the case.
        source: Folder with the downloaded files.
        target: Folder for the volumes.
        b_value_set: b-value of the DWI, s/mm², if there is a b0 but no file with the b-value; 0 if unknown.
        modality_check: Refuse a scan with the intensities of an ADC map or a b0 image.
        predictions: Masks that tables in the data set list as predicted.

    Raises:
        BadVolume: the case is refused, with the reason.
    """
    case, label_notes = with_label(found, source, predictions, _read_keys)
    image, geometry = _read_keys(case.image, source)
    voxel_mm = geometry.voxel_mm
    repairs = [*label_notes, *geometry.repairs, *_check_image(image, case)]
    head = find_head(image, voxel_mm)
    if modality_check:
        require_dwi(image, voxel_mm, head, MODALITY_ADVICE)
    repairs += _head_notes(head, voxel_mm)
    volumes = {"dwi": image}
    adc, adc_unit, notes = _read_adc(case, source, image, geometry, b_value_set)
    repairs += notes
    if adc is not None:
        volumes["adc"] = adc
    lesion_voxels = lesion_ml = None
    if case.mask:
        mask, notes = _read_mask(case, source, image, geometry)
        volumes["mask"] = mask
        repairs += notes
        lesion_voxels = int(mask.sum())
        lesion_ml = lesion_voxels * float(np.prod(voxel_mm)) / 1000 if voxel_mm else None

    slug = case_slug(case.name)
    files = {kind: f"{slug}_{kind}.nii.gz" for kind in volumes}
    for kind, volume in volumes.items():
        write(target / files[kind], volume, geometry.canonical_space)
    x, y, slices = image.shape
    return Case(
        case=case.name,
        patient=case.patient,
        session=case.session,
        labelled=bool(case.mask),
        shape=(x, y, slices),
        voxel_mm=voxel_mm,
        orientation_found=geometry.orientation,
        slice_numbers=case.slice_numbers,
        files=files,
        sources=[Source(key=key, sha256=file_sha256(local_path(source, key))) for key in case.keys],
        voxel_sha256=hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest(),
        slice_sha256=_slice_digests(image),
        lesion_voxels=lesion_voxels,
        lesion_ml=lesion_ml,
        adc_unit_found=adc_unit,
        portrait=portrait(image),
        repairs=list(dict.fromkeys(repairs)),
    )


def _slice_digests(image: np.ndarray) -> list[str]:
    """Return a digest of each slice that is not constant, so that patients who share some slices are found."""
    slices = (np.ascontiguousarray(image[:, :, s]) for s in range(image.shape[2]))
    return [hashlib.sha256(s.tobytes()).hexdigest()[:32] for s in slices if s.min() != s.max()]


def case_slug(name: str) -> str:
    """Return a file name for a case: its own name if that is plain ASCII, else a digest of the name."""
    plain = name.isascii() and all(c.isalnum() or c in "._-" for c in name) and name[0] not in ".-" and len(name) < 100
    return name if plain else f"case-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def _read_keys(keys: list[str], source: Path) -> tuple[np.ndarray, Geometry]:
    """Read one volume (X, Y, slices) from one file, or from one file per slice."""
    volumes = []
    for key in keys:
        try:
            volumes.append(read(local_path(source, key)))
        except BadVolume as reason:
            raise BadVolume(f"{key}: {reason}") from None
    if len(volumes) == 1:
        return volumes[0]
    shapes = {v.shape for v, _ in volumes}
    if len(shapes) > 1:
        raise BadVolume(f"its slices differ in shape: {', '.join(map(str, sorted(shapes)))}")
    stacked = np.concatenate([v for v, _ in volumes], axis=2)
    repairs = dict.fromkeys(repair for _, geometry in volumes for repair in geometry.repairs)
    return stacked, Geometry(stacked.shape, None, tuple(repairs))


def _check_image(image: np.ndarray, case: FoundCase) -> list[str]:
    """Refuse a volume that cannot be a scan; return notes about its slice numbers."""
    x, y, slices = image.shape
    if case.image[0].lower().endswith(".npy") and y == slices and x < y:
        raise BadVolume(f"shape {image.shape} looks like (slices, X, Y): save a .npy volume as (X, Y, slices)")
    require_scan(image)
    numbers = case.slice_numbers
    if numbers and len(numbers) != image.shape[2]:
        raise BadVolume(f"{len(numbers)} files are named as single slices, but hold {image.shape[2]} slices")
    if numbers and (gaps := int((np.diff(numbers) > 1).sum())):
        return [f"{gaps} gap{'s' if gaps > 1 else ''} in the slice numbers {numbers[0]}-{numbers[-1]}"]
    return []


def _head_notes(head: Head, voxel_mm: tuple[float, float, float] | None) -> list[str]:
    """Return what is assumed if no head is found, or if the file has no orientation and no voxel size."""
    notes = [] if head.found else ["no head found: the whole plane is used"]
    if voxel_mm is None and head.found:
        axis = ("first", "second")[left_right_axis(head.mask)]
        notes += [
            f"left-right is the {axis} axis, found by symmetry",
            "no voxel size: the length of the head sets the scale",
        ]
    elif voxel_mm is None:
        notes.append("left-right is assumed to be the first axis")
    return notes


def _read_mask(case: FoundCase, source: Path, image: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, list[str]]:
    """Return the mask (uint8, 0 and 1) on the image's grid, and notes about repairs."""
    mask, mask_geometry = _read_keys(case.mask, source)
    require_same_grid("mask", mask, mask_geometry, image, geometry)
    if not np.isfinite(mask).all():
        raise BadVolume("the mask holds values that are NaN or infinite")
    rounded = np.rint(mask)
    values = np.unique(rounded)
    if not np.isin(values, (0, 1)).all() or np.abs(mask - rounded).max() > BINARY_TOLERANCE:
        shown = ", ".join(f"{v:g}" for v in np.unique(mask)[:5])
        raise BadVolume(f"the mask is not binary: it holds {shown}; expected 0 and 1")
    if values.min() == 1:
        raise BadVolume("the mask is 1 everywhere: is it the mask of this image?")
    if (share := float(rounded.mean(dtype=np.float64))) > MOST_LESION:
        raise BadVolume(f"the mask is 1 in {share:.0%} of the volume, air included: is it inverted?")
    notes = [] if np.array_equal(mask, rounded) else ["mask values rounded to 0 and 1"]
    return rounded.astype(np.uint8), [*notes, *mask_geometry.repairs]


def _read_adc(
    case: FoundCase, source: Path, image: np.ndarray, geometry: Geometry, b_value_set: float
) -> tuple[np.ndarray | None, str | None, list[str]]:
    """Return the ADC map (1e-3 mm²/s), the unit of the file, and notes; a bad map is left out, the case is kept."""
    notes: list[str] = []
    try:
        if case.adc:
            adc, adc_geometry = read(local_path(source, case.adc))
            adc, unit = in_kept_unit(adc, adc_geometry, image, geometry)
        elif case.b0:
            b = b_value([local_path(source, key) for key in case.b_values], b_value_set)
            notes = [*b.notes]
            adc = from_b0(*read(local_path(source, case.b0)), image, geometry, b.value)
            return adc, None, [*notes, f"ADC computed from b0, {b.origin}"]
        else:
            return None, None, []
    except BadVolume as reason:
        return None, None, [*notes, f"ADC map left out: {reason}"]
    if unit != KEPT:
        notes.append(f"ADC converted from {unit} to {KEPT}")
    if adc_geometry.orientation != geometry.orientation:
        notes.append(f"ADC stored as {adc_geometry.orientation}, the DWI as {geometry.orientation}: both made RAS")
    return adc, unit, notes
