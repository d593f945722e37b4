"""Find the cases in a list of keys: the user's own layout, or ISLES'22 / BIDS."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from components.core.b_value import BVAL, SIDECAR
from components.core.step import StepError
from components.core.words import can_be_shown, shown

SCAN = r"\.(?:nii\.gz|nii|npy)"
FLAT = re.compile(rf"^(?:.*/)?(images|masks)/([^/]+?)((?i:{SCAN}))$")
SLICE = re.compile(r"^(.+)_Slice_(\d+)$", re.IGNORECASE)
"""Single slices, `.npy` only: Patient_XXX_Slice_YYY."""
BIDS_DWI = re.compile(r"^(?:.*/)?(sub-[^/]+)/(?:(ses-[^/]+)/)?(?:dwi/)?[^/]+_(dwi|adc)(?i:\.nii(?:\.gz)?)$")
BIDS_B0 = re.compile(r"^(?:.*/)?(sub-[^/]+)/(?:(ses-[^/]+)/)?(?:dwi/)?[^/]+_b0(?i:\.nii(?:\.gz)?)$")
BIDS_MASK = re.compile(
    r"^(?:.*/)?derivatives/(?:.*/)?(sub-[^/]+)/(?:(ses-[^/]+)/)?(?:[^/]+/)?"
    r"[^/]*[_-](?:msk|mask|lesion|seg|dseg)\.nii(?:\.gz)?$",
    re.IGNORECASE,
)
"""A lesion mask among the derivatives; a brain mask is none."""

MOST_NAME_BYTES, MOST_KEY_BYTES, MOST_SLICE_NUMBER = 240, 1024, 9999
"""A file system takes 255 bytes for a name (some go to .part and the like), S3 takes 1024 for a key."""
OUTSIDE = re.compile(r"(?:^|/)\.{1,2}(?:/|$)|^/|//")
HIDDEN = re.compile(r"(?:^|/)(?:\.|__MACOSX/)")
"""What desktops and archives leave beside files: ._NAME, .Trash/, __MACOSX/."""
SCAN_ENDING = re.compile(rf"(?i:{SCAN})$")

EXPECTED = (
    "Expected either images/NAME.nii.gz (or .npy) with masks/NAME of the same name, "
    "or sub-X/ses-Y/dwi/sub-X_ses-Y_dwi.nii.gz with masks under derivatives/sub-X/."
)


@dataclass
class Case:
    """One scan session of one patient and the keys it is made of.

    image and mask hold one key, or one per slice in the order of `slice_numbers`. b0 is of use where there is no adc,
    b_values (a `.bval` file, a JSON sidecar) where there is a b0 of use.
    """

    name: str
    patient: str
    session: str | None = None
    image: list[str] = field(default_factory=list)
    mask: list[str] = field(default_factory=list)
    adc: str | None = None
    slice_numbers: list[int] | None = None
    b0: str | None = None
    b_values: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return [*self.image, *self.mask, *filter(None, [self.adc or self.b0]), *self.b_values]

    def find_b_values(self, keys: Container[str]) -> None:
        """Take from `keys` the files beside the DWI, of its own name, that may hold its b-value."""
        if self.b0 and not self.adc and self.image:
            stem = SCAN_ENDING.sub("", self.image[0])
            self.b_values = [stem + ending for ending in (BVAL, SIDECAR) if stem + ending in keys]


@dataclass
class Found:
    """What a listing holds: usable cases, refused names with their reasons, and keys that are no scans."""

    layout: str
    cases: list[Case]
    refused: dict[str, str]
    ignored: list[str]


def discover(keys: Iterable[str]) -> Found:
    """Cases among `keys`.

    Raises:
        StepError: no layout is recognised, or both are.
    """
    everything, refused = sorted(keys), {}
    for key in everything:
        if (why := unfit(key)) and (OUTSIDE.search(key) or not HIDDEN.search(key)) and SCAN_ENDING.search(key):
            refused[shown(key)] = why
    keys = [k for k in everything if not HIDDEN.search(k) and not unfit(k)]
    flat = [k for k in keys if FLAT.match(k) and "derivatives/" not in k]
    bids = [k for k in keys if BIDS_DWI.match(k) and "derivatives/" not in k]
    if flat and bids:
        raise StepError(f"two layouts at once: {flat[0]} and {bids[0]}. {EXPECTED} Keep them in two folders.")
    if not flat and not bids:
        named = ", ".join(shown(k) for k in keys[:3]) or "nothing"
        raise StepError(f"no scans recognised among {len(everything)} files ({named}, ...). {EXPECTED}")
    found = _flat(keys, flat) if flat else _bids(keys, bids)
    found.refused |= refused
    _refuse_look_alikes(found)
    _refuse_files_that_are_folders(found, keys)
    found.cases = [case for case in found.cases if case.name not in found.refused]
    return found


def unfit(key: str) -> str | None:
    """Why no file and no line of a report can have this name; None where they can."""
    if not all(map(can_be_shown, key)):
        return "its name holds characters that cannot be shown or are no UTF-8: rename it"
    if OUTSIDE.search(key):
        return "its key leaves its folder or holds an empty step: rename it"
    if len(key.encode()) > MOST_KEY_BYTES or any(len(part.encode()) > MOST_NAME_BYTES for part in key.split("/")):
        return f"its name is too long: at most {MOST_NAME_BYTES} bytes, with its folders {MOST_KEY_BYTES}"
    return None


def _refuse_look_alikes(found: Found) -> None:
    """Refuse cases whose names or patients look alike: one patient could be taken for two."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for case in found.cases:
        for name in (case.name, case.patient):
            spelled[look(name)].add(name)
    for case in found.cases:
        for name in (case.name, case.patient):
            if len(spelled[look(name)]) > 1:
                found.refused[case.name] = _look_alike(spelled[look(name)])


def look(name: str) -> str:
    """What a person sees of a name: neither its case, nor how wide its spaces are, nor how its letters are coded."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(c for c in plain if c.isprintable() or c.isspace()).split())


def _look_alike(names: Iterable[str]) -> str:
    return f"names that differ only in case, spaces or the coding of letters: {', '.join(sorted(names))}"


def _refuse_files_that_are_folders(found: Found, keys: list[str]) -> None:
    """A bucket can hold a/b and a/b/c; a disk cannot."""
    folders = {key[:at] for key in keys for at in range(len(key)) if key[at] == "/"}
    both = folders.intersection(keys)
    for case in found.cases if both else ():
        for key in case.keys:
            if at := next((k for k in both if key == k or key.startswith(f"{k}/")), None):
                found.refused[case.name] = f"{at} is a file and a folder at once: rename one"


def _flat(keys: list[str], scans: list[str]) -> Found:
    by_stem: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"images": [], "masks": []})
    for key in scans:
        kind, stem, _ = FLAT.match(key).groups()
        by_stem[stem][kind].append(key)

    refused: dict[str, str] = {}
    spelled: dict[str, list[str]] = defaultdict(list)
    for stem in by_stem:
        spelled[look(stem)].append(stem)
    for stems in spelled.values():
        if len(stems) > 1:
            refused |= {s: _look_alike(stems) for s in stems}
    for stem, files in by_stem.items():
        for kind, found in files.items():
            if len(found) > 1:
                refused[stem] = f"two files in {kind}/ for one name: {', '.join(found)}"
        if not files["images"]:
            refused.setdefault(stem, "mask without an image of the same name")

    cases: dict[str, Case] = {}
    slices: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for stem, files in sorted(by_stem.items()):
        if stem in refused:
            continue
        match = SLICE.match(stem)
        if match and files["images"][0].lower().endswith(".npy"):
            slices[match[1]].append((int(match[2]), stem))
        else:
            patient, session = _patient_and_session(stem)
            cases[stem] = Case(stem, patient, session, files["images"], files["masks"])
    for stem in [s for s in cases if (m := SLICE.match(s)) and m[1] in slices]:
        slices[SLICE.match(stem)[1]].append((int(SLICE.match(stem)[2]), stem))
        del cases[stem]
    for name, numbered in slices.items():
        case = _from_slices(name, sorted(numbered), by_stem)
        lost = sorted(s for s in refused if (m := SLICE.match(s)) and m[1] == name)
        if name in cases:
            del cases[name]
            refused[name] = "given twice: as one volume and as single slices"
        elif lost:
            refused[name] = f"its slice {lost[0]} was refused: {refused[lost[0]]}"
        elif isinstance(case, str):
            refused[name] = case
        else:
            cases[name] = case
    known = set(scans)
    return Found("images/masks", [cases[n] for n in sorted(cases)], refused, [k for k in keys if k not in known])


def _from_slices(name: str, numbered: list[tuple[int, str]], files: dict) -> Case | str:
    numbers = [number for number, _ in numbered]
    if len(set(numbers)) < len(numbers):
        return f"slice number {next(n for n in numbers if numbers.count(n) > 1)} is given twice"
    if max(numbers) > MOST_SLICE_NUMBER:
        return f"slice number {shown(str(max(numbers)))} is no number of a slice: at most {MOST_SLICE_NUMBER}"
    masks = [key for _, stem in numbered for key in files[stem]["masks"]]
    if other := [k for k in (*(files[s]["images"][0] for _, s in numbered), *masks) if not k.lower().endswith(".npy")]:
        return f"single slices in two formats: {other[0]} is no .npy"
    if masks and len(masks) < len(numbers):
        missing = next(stem for _, stem in numbered if not files[stem]["masks"])
        return f"{len(numbers) - len(masks)} of {len(numbers)} slices have no mask (the first: {missing})"
    patient, session = _patient_and_session(name)
    images = [files[stem]["images"][0] for _, stem in numbered]
    return Case(name, patient, session, images, masks, None, numbers)


def _patient_and_session(stem: str) -> tuple[str, str | None]:
    patient, separator, rest = stem.partition("_ses-")
    return (patient, f"ses-{rest.split('_')[0]}") if separator else (stem, None)


def _bids(keys: list[str], scans: list[str]) -> Found:
    cases: dict[str, Case] = {}
    refused: dict[str, str] = {}
    used: set[str] = set()
    known = set(keys)

    def case_of(subject: str, session: str | None) -> Case:
        name = f"{subject}_{session}" if session else subject
        return cases.setdefault(name, Case(name, subject, session))

    for key in scans:
        subject, session, kind = BIDS_DWI.match(key).groups()
        case = case_of(subject, session)
        used.add(key)
        if kind == "dwi":
            case.image.append(key)
        elif case.adc:
            refused[case.name] = f"two ADC maps: {case.adc}, {key}"
        else:
            case.adc = key
    for key in keys:
        if (match := BIDS_MASK.match(key)) and "brain" not in key.rsplit("/", 1)[1].lower():
            name = f"{match[1]}_{match[2]}" if match[2] else match[1]
            used.add(key)
            if name in cases:
                cases[name].mask.append(key)
            else:
                refused[name] = "mask without a DWI scan"
    for key in keys:
        if (match := BIDS_B0.match(key)) and "derivatives/" not in key:
            case = cases.get("_".join(filter(None, match.groups())))
            if case and not case.adc and not case.b0:
                case.b0 = key
                case.find_b_values(known)
                used.update([key, *case.b_values])
    for name, case in cases.items():
        if not case.image:
            refused[name] = "ADC map without a DWI scan"
        for kind, found in (("DWI scans", case.image), ("masks", case.mask)):
            if len(found) > 1:
                refused[name] = f"{len(found)} {kind} where one is expected: {', '.join(found)}"
    usable = [cases[n] for n in sorted(cases) if n not in refused]
    return Found("BIDS", usable, refused, [k for k in keys if k not in used])
