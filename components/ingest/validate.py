"""Is this case what it claims to be? Each refusal has a reason that a person can act on."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from components.core.storage import file_sha256, local_path
from components.ingest.found_files import Case
from components.ingest.label_masks import NO_PREDICTIONS, Predictions, labelled
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
INSIST = 'If it is a DWI all the same: SET="modality_check=false".'


@dataclass
class Record:
    """A validated case as `cases.json` lists it."""

    case: str
    patient: str
    session: str | None
    labelled: bool
    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float] | None
    orientation_found: str | None
    slice_numbers: list[int] | None
    files: dict[str, str]
    sources: list[dict[str, str]]
    voxel_sha256: str
    slice_sha256: list[str]
    lesion_voxels: int | None
    lesion_ml: float | None
    adc_unit_found: str | None
    portrait: str | None
    repairs: list[str] = field(default_factory=list)
    site: str | None = None
    scanner: str | None = None

    def as_dict(self) -> dict:
        return asdict(self)


def validate(
    case: Case, source: Path, target: Path, b_value_set: float = 0, modality_check: bool = True,
    predictions: Predictions = NO_PREDICTIONS,
) -> Record:  # fmt: skip
    """Check one downloaded case, write its canonical, de-identified volumes to `target`, and describe it.

    `b_value_set`, s/mm², is that of a DWI with a b0 but no file beside it that says it; 0 where it is unknown.
    `modality_check`: refuse a scan whose intensities say that it is no DWI.
    `predictions` are the masks that tables in the data set list as predicted.

    Raises:
        BadVolume: the reason why the case is refused.
    """
    case, about_labels = labelled(case, source, predictions, _assemble)
    image, geometry = _assemble(case.image, source)
    voxel_mm = geometry.voxel_mm
    repairs = [*about_labels, *geometry.repairs, *_check_image(image, case)]
    head = find_head(image, voxel_mm)
    if modality_check:
        require_dwi(image, voxel_mm, head, INSIST)
    repairs += _about_head(head, voxel_mm)
    volumes, adc_unit = {"dwi": image}, None
    if case.adc or case.b0:
        adc, adc_unit, said = _adc(case, source, image, geometry, b_value_set)
        repairs += said
        if adc is not None:
            volumes["adc"] = adc
    if case.mask:
        mask, said = _mask(case, source, image, geometry)
        volumes["mask"] = mask
        repairs += said

    slug = case_slug(case.name)
    files = {kind: f"{slug}_{kind}.nii.gz" for kind in volumes}
    for kind, volume in volumes.items():
        write(target / files[kind], volume, geometry.canonical_space)
    lesion_voxels = int(volumes["mask"].sum()) if case.mask else None
    lesion_ml = lesion_voxels * float(np.prod(voxel_mm)) / 1000 if case.mask and voxel_mm else None
    return Record(
        case=case.name,
        patient=case.patient,
        session=case.session,
        labelled=bool(case.mask),
        shape=image.shape,
        voxel_mm=voxel_mm,
        orientation_found=geometry.orientation,
        slice_numbers=case.slice_numbers,
        files=files,
        sources=[{"key": key, "sha256": file_sha256(local_path(source, key))} for key in case.keys],
        voxel_sha256=hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest(),
        slice_sha256=_slice_digests(image),
        lesion_voxels=lesion_voxels,
        lesion_ml=lesion_ml,
        adc_unit_found=adc_unit,
        portrait=portrait(image),
        repairs=list(dict.fromkeys(repairs)),
    )


def _slice_digests(image: np.ndarray) -> list[str]:
    """One per slice that shows anything: the same slice under two patients' names is found even in part."""
    slices = (np.ascontiguousarray(image[:, :, s]) for s in range(image.shape[2]))
    return [hashlib.sha256(s.tobytes()).hexdigest()[:32] for s in slices if s.min() != s.max()]


def case_slug(name: str) -> str:
    """A file name for a case: its own where that is plain, else a digest of it."""
    plain = name.isascii() and all(c.isalnum() or c in "._-" for c in name) and name[0] not in ".-" and len(name) < 100
    return name if plain else f"case-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def _assemble(keys: list[str], source: Path) -> tuple[np.ndarray, Geometry]:
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


def _check_image(image: np.ndarray, case: Case) -> list[str]:
    x, y, slices = image.shape
    if case.image[0].lower().endswith(".npy") and y == slices and x < y:
        raise BadVolume(f"shape {image.shape} looks like (slices, X, Y): a .npy volume is (X, Y, slices)")
    require_scan(image)
    numbers = case.slice_numbers
    if numbers and len(numbers) != image.shape[2]:
        raise BadVolume(f"{len(numbers)} files named as single slices hold {image.shape[2]} slices")
    if numbers and (gaps := int((np.diff(numbers) > 1).sum())):
        return [f"{gaps} gap{'s' if gaps > 1 else ''} in the slice numbers {numbers[0]}-{numbers[-1]}"]
    return []


def _about_head(head: Head, voxel_mm: tuple[float, float, float] | None) -> list[str]:
    """What is assumed of the head where the file has no orientation and no millimetres, or no head is found."""
    said = [] if head.found else ["no head found: the whole plane is taken"]
    if voxel_mm is None and head.found:
        axis = ("first", "second")[left_right_axis(head.mask)]
        said += [
            f"left-right is the {axis} axis, found by symmetry",
            "no voxel size: the head's own length sets the scale",
        ]
    elif voxel_mm is None:
        said.append("left-right is taken to be the first axis")
    return said


def _mask(case: Case, source: Path, image: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, list[str]]:
    mask, mask_geometry = _assemble(case.mask, source)
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
    said = [] if np.array_equal(mask, rounded) else ["mask values rounded to 0 and 1"]
    return rounded.astype(np.uint8), [*said, *mask_geometry.repairs]


def _adc(case: Case, source: Path, image: np.ndarray, geometry: Geometry, b_value_set: float):
    """The ADC map in 1e-3 mm²/s, the unit it came in, and what to say of it; a bad map is left out, not the case."""
    said = []
    try:
        if not case.adc:
            b = b_value([local_path(source, key) for key in case.b_values], b_value_set)
            said = [*b.notes]
            adc = from_b0(*read(local_path(source, case.b0)), image, geometry, b.value)
            return adc, None, [*said, f"ADC computed from b0, {b.origin}"]
        adc, adc_geometry = read(local_path(source, case.adc))
        adc, unit = in_kept_unit(adc, adc_geometry, image, geometry)
    except BadVolume as reason:
        return None, None, [*said, f"ADC map left out: {reason}"]
    said = [] if unit == KEPT else [f"ADC converted from {unit} to {KEPT}"]
    if adc_geometry.orientation != geometry.orientation:
        said.append(f"ADC stored as {adc_geometry.orientation}, the DWI as {geometry.orientation}: both made RAS")
    return adc, unit, said
