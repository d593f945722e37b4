"""Choose the trace DWI, the ADC map and the b0 image of a study by the headers of its images."""

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from components.core.text import shown
from components.scans.b_value import UNKNOWN, USUAL
from components.scans.geometry import AFFINE_TOLERANCE, BadVolume, largest_distance
from pipelines.dicom.headers import Plane, Series

SAME_DIRECTION, RIGHT_ANGLES = 1e-3, 1e-2
"""How far the direction cosines of two images of one volume may differ, and the length of their normal from 1."""
EVEN = 0.05
"""How far a step from slice to slice may differ from the usual one, as a share of that."""
LARGEST_B0 = 10.0
"""Up to this b-value, s/mm², an image counts as one without diffusion weighting."""
USUAL_B = UNKNOWN
TAKEN = ("trace", "ADC", "b0")


@dataclass(frozen=True)
class Volume:
    """Images of a series that make one volume.

    kind: "trace", "direction", "b0", "ADC" or "mosaic". planes: in the order of their place, along the normal of the
    images. problem: why they are not one whole volume, "" if they are. sure: whether the header says that this is a
    trace.
    """

    series: Series
    kind: str
    b_value: float
    planes: tuple[Plane, ...]
    problem: str
    sure: bool = True

    @property
    def named(self) -> str:
        """Return how messages name the volume."""
        b_value = "" if self.kind in ("ADC", "mosaic") else f", b = {self.b_value:g} s/mm²"
        return f"{self.series.named}: {self.kind}{b_value}, {len(self.planes)} images"

    @property
    def affine(self) -> np.ndarray:
        """The affine (4, 4) from (column, row, plane) to RAS+ millimetres, as PS3.3 C.7.6.2.1.1 defines it."""
        first, last = self.planes[0], self.planes[-1]
        affine, cosines = np.eye(4), np.array(first.orientation)
        affine[:3, 0] = cosines[:3] * first.spacing[1]
        affine[:3, 1] = cosines[3:] * first.spacing[0]
        affine[:3, 2] = (np.array(last.position) - first.position) / (len(self.planes) - 1)
        affine[:3, 3] = first.position
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@dataclass(frozen=True)
class Chosen:
    """What is taken of a study, and what a person should know about it."""

    dwi: Volume
    adc: Volume | None
    b0: Volume | None
    notes: tuple[str, ...]


def choose(series: list[Series], wanted: frozenset[str] = frozenset()) -> Chosen:
    """Return the trace DWI with the b-value nearest to 1000 s/mm², and the ADC map or else the b0 image on its grid.

    wanted: numbers and UIDs of series. Where one of them has a DWI (an ADC map, a b0 image), only these count for it.

    Raises:
        BadVolume: there is no such DWI, more than one DWI, ADC map or b0 image could be meant, or the images are not
            one whole volume. The message lists what was found.
    """
    if len({one.patient for one in series}) > 1:
        raise BadVolume("its images name several patients in one study: take the images of the others out")
    volumes = [volume for one in series for volume in _volumes(one)]
    for one in series:
        if is_named(one, wanted) and not any(v.series is one and v.kind in TAKEN for v in volumes):
            raise BadVolume(
                f"SERIES names {one.named}, which holds no trace DWI, no ADC map and no b0 image. {_found(volumes)}"
            )
    dwi = _only(_nearest(_named(_of_kind(volumes, "trace"), wanted), volumes), "DWI", volumes)
    _require_all_slices(dwi, volumes)
    same_grid = [v for v in _named(_of_kind(volumes, "ADC"), wanted) if v.problem or _same_grid(v, dwi)]
    adc = _only(same_grid, "ADC map", volumes) if same_grid else None
    notes = [f"DWI: {dwi.named}"] + ([f"ADC map: {adc.named}"] if adc else [])
    if not dwi.sure:
        notes.append("the header does not say whether the DWI is a trace: taken as one")
    if not adc and _of_kind(volumes, "ADC"):
        notes.append("the ADC map was left out: it is on another grid than the DWI")
    b0 = None if adc else _b0(dwi, volumes, wanted)
    if b0:
        notes.append(f"b0 image: {b0.named}")
    if b0 and b0.series is not dwi.series:
        notes.append("THE B0 IMAGE IS OF ANOTHER SERIES THAN THE DWI: check that they belong together")
    if not adc and not b0 and _of_kind(volumes, "b0"):
        notes.append("the b0 image was left out: it is not whole, or on another grid than the DWI")
    return Chosen(dwi, adc, b0, tuple(notes))


def _b0(dwi: Volume, volumes: list[Volume], wanted: frozenset[str]) -> Volume | None:
    """Return the b0 image that SERIES names, or that of the DWI's series, or the only one of the other series."""
    usable = [v for v in _of_kind(volumes, "b0") if _same_grid(v, dwi)]
    own = sorted((v for v in usable if v.series is dwi.series), key=lambda v: v.b_value)[:1]
    others = [v for v in usable if v.series is not dwi.series]
    named = [v for v in others if is_named(v.series, wanted)]
    candidates = named or own or others
    return _only(candidates, "b0 image", volumes) if candidates else None


def _require_all_slices(dwi: Volume, volumes: list[Volume]) -> None:
    """Compare the places of the DWI with those of the study's other volumes on its lattice.

    Raises:
        BadVolume: another volume has all of the DWI's places and more.
    """
    first, places = dwi.planes[0], [p.position for p in dwi.planes]
    step = np.subtract(places[1], places[0])
    near = EVEN * float(np.linalg.norm(step))
    for other in volumes:
        if other is dwi or other.kind not in TAKEN or other.problem or len(other.planes) <= len(places):
            continue
        there = np.array([p.position for p in other.planes])
        same_lattice = (
            other.planes[0].size == first.size
            and np.allclose(other.planes[0].spacing, first.spacing, rtol=SAME_DIRECTION)
            and float(np.abs(np.subtract(other.planes[0].orientation, first.orientation)).max()) <= SAME_DIRECTION
            and float(np.linalg.norm(there[1] - there[0] - step)) <= near
        )
        if same_lattice and all(np.linalg.norm(there - place, axis=1).min() <= near for place in places):
            raise BadVolume(
                f"{dwi.series.named}: slices are missing: {len(places)} of the {len(there)} places of "
                f"{other.series.named}. Export the whole series again. {_found(volumes)}"
            )


def names_series(text: str) -> frozenset[str]:
    """Return the numbers and UIDs of series in SERIES, which are apart by spaces or commas."""
    return frozenset(filter(None, re.split(r"[\s,]+", text)))


def is_named(series: Series, wanted: frozenset[str]) -> bool:
    """Return whether SERIES names this series."""
    return bool({series.number, series.uid} & wanted)


def _of_kind(volumes: list[Volume], kind: str) -> list[Volume]:
    return [volume for volume in volumes if volume.kind == kind]


def _named(volumes: list[Volume], wanted: frozenset[str]) -> list[Volume]:
    return [volume for volume in volumes if is_named(volume.series, wanted)] or volumes


def _nearest(traces: list[Volume], volumes: list[Volume]) -> list[Volume]:
    """Return the traces with the b-value nearest to 1000 s/mm², of two the higher one."""
    usable = [v for v in traces if USUAL[0] <= v.b_value <= USUAL[1]]
    if not usable:
        if mosaics := _of_kind(volumes, "mosaic"):
            why = f"{mosaics[0].series.named} holds mosaics, which an answer in DICOM cannot refer to by slice"
            advice = "Convert it (dcm2niix), and give the .nii.gz file."
        elif any(USUAL[0] <= v.b_value <= USUAL[1] for v in _of_kind(volumes, "direction")):
            why, advice = "there are single directions of diffusion and no trace", "Export the trace from the scanner."
        else:
            why = f"there is no trace DWI with a b-value from {USUAL[0]} to {USUAL[1]} s/mm² in the headers"
            advice = "Export the DWI too, or give it as NIfTI."
        raise BadVolume(f"{why}. {advice} {_found(volumes)}")
    nearest = min(usable, key=lambda v: (abs(v.b_value - USUAL_B), -v.b_value)).b_value
    return [v for v in usable if v.b_value == nearest]


def _only(candidates: list[Volume], what: str, volumes: list[Volume]) -> Volume:
    if len(candidates) > 1:
        numbers = [v.series.number for v in candidates]
        by_number = all(numbers) and len(set(numbers)) == len(numbers)
        one = numbers[0] if by_number else candidates[0].series.uid
        others = ", ".join(v.series.number if by_number else v.series.uid for v in candidates[1:])
        raise BadVolume(
            f"{len(candidates)} series could be the {what}. Choose one: SERIES={one} (or {others}). {_found(volumes)}"
        )
    if candidates[0].problem:
        raise BadVolume(f"{candidates[0].series.named}: {candidates[0].problem}. {_found(volumes)}")
    return candidates[0]


def _found(volumes: list[Volume]) -> str:
    return f"Found: {'; '.join(v.named for v in volumes) or 'no diffusion images'}."


def _volumes(series: Series) -> list[Volume]:
    groups: dict[tuple[str, float, bool], list[Plane]] = defaultdict(list)
    for plane in series.planes:
        if plane.kind in ("adc", "mosaic"):
            groups[{"adc": "ADC"}.get(plane.kind, plane.kind), 0.0, True].append(plane)
        elif plane.kind == "dwi" and plane.b_value is not None:
            kind = "b0" if plane.b_value <= LARGEST_B0 else "direction" if plane.directed else "trace"
            groups[kind, plane.b_value, kind != "trace" or plane.directed is False].append(plane)
    slices = max((len({p.position for p in planes}) for planes in groups.values()), default=0)
    return [
        Volume(series, kind, b_value, _in_order(planes), _problem(planes, slices), sure)
        for (kind, b_value, sure), planes in groups.items()
    ]


def _normal(plane: Plane) -> np.ndarray:
    return np.cross(plane.orientation[:3], plane.orientation[3:])


def _is_placed(plane: Plane) -> bool:
    """Return whether the header of an image places it in space: finite numbers, and axes at right angles."""
    if (len(plane.position), len(plane.orientation), len(plane.spacing)) != (3, 6, 2):
        return False
    numbers = (*plane.position, *plane.orientation, *plane.spacing)
    right_angles = abs(float(np.linalg.norm(_normal(plane))) - 1) < RIGHT_ANGLES
    return bool(np.isfinite(numbers).all()) and min(plane.spacing) > 0 and right_angles


def _in_order(planes: list[Plane]) -> tuple[Plane, ...]:
    if not all(map(_is_placed, planes)):
        return tuple(planes)
    normal = _normal(planes[0])
    return tuple(sorted(planes, key=lambda p: float(normal @ p.position)))


def _problem(planes: list[Plane], slices: int) -> str:
    """Return why images are not one whole volume; `slices` is the number of places of the series' largest volume."""
    if not all(map(_is_placed, planes)):
        return "the headers of its images lack a usable position, orientation or spacing. Export it from the archive"
    if len({(p.sop_uid, p.frame) for p in planes}) < len(planes):
        twice = next(p for p in planes if sum((o.sop_uid, o.frame) == (p.sop_uid, p.frame) for o in planes) > 1)
        return f"the same image is there twice ({shown(twice.path.name)} is one of them). Remove the copies"
    first = planes[0]
    turned = max(float(np.abs(np.subtract(p.orientation, first.orientation)).max()) for p in planes)
    if turned > SAME_DIRECTION or len({(p.size, p.spacing) for p in planes}) > 1:
        return "its images are of mixed orientations or sizes. Name another series with SERIES=, or export it again"
    ordered = _in_order(planes)
    if len(ordered) < 2:
        return "it holds one image, not a volume"
    steps = np.diff([float(_normal(first) @ p.position) for p in ordered])
    usual = float(np.median(steps))
    if min(steps) <= 0 or min(steps) < usual * EVEN:
        return "several images are at one place: repeated, or of several directions. Export the trace alone"
    uneven = int(np.argmax(np.abs(steps - usual)))
    if abs(steps[uneven] - usual) > EVEN * usual:
        return (
            f"slices are missing or uneven: {steps[uneven]:.2f} mm after slice {uneven + 1}, usually {usual:.2f} mm. "
            "Export the whole series again"
        )
    if len(planes) < slices:
        return f"slices are missing: {len(planes)} of the {slices} places of this series. Export the whole series again"
    offsets = [np.array(b.position) - a.position for a, b in pairwise(ordered)]
    if max(float(np.linalg.norm(o - offsets[0])) for o in offsets) > 2 * EVEN * usual:
        return "its slices do not lie on a straight line. Export the original series, not a reformatted one"
    return ""


def _same_grid(a: Volume, b: Volume) -> bool:
    if a.problem or b.problem or a.planes[0].size != b.planes[0].size or len(a.planes) != len(b.planes):
        return False
    rows, columns = a.planes[0].size
    shift = largest_distance(a.affine, b.affine, (columns, rows, len(a.planes)))
    return shift <= AFFINE_TOLERANCE * min(b.planes[0].spacing)
