"""The scans of a folder that is to be segmented: either layout of the pipeline's, or NIfTI files as they lie there."""

import re
from collections import defaultdict
from pathlib import Path

from components.core.step import StepError
from components.core.words import shown
from components.ingest.discover import BIDS_DWI, BIDS_MASK, FLAT, Case, Found, discover
from pipelines.upload import files_of

NIFTI = re.compile(r"^(.+)\.nii(?:\.gz)?$", re.IGNORECASE | re.DOTALL)
COMPANION = re.compile(r"^(.+)[_-](adc|b0)$", re.IGNORECASE)
MASK = re.compile(r"[_-](?:msk|mask|lesion|seg|dseg|probability)$", re.IGNORECASE)
NO_SPACE = "a mask needs a scan's space, which only NIfTI has: give it as .nii or .nii.gz"


def find(folder: Path) -> Found:
    """The cases in `folder`, their masks left aside, and those refused for their names or types.

    Raises:
        StepError: there are no scans, or two layouts at once.
    """
    keys = [k for k in files_of(folder.resolve()) if not _is_mask(k)]
    laid_out = any(FLAT.match(k) or BIDS_DWI.match(k) for k in keys)
    found = discover(keys) if laid_out else _as_they_lie(keys)
    for case in found.cases:
        if len(case.image) > 1 or not NIFTI.match(case.image[0]):
            found.refused[case.name] = f"{case.image[0]}: {NO_SPACE}"
    found.cases = [case for case in found.cases if case.name not in found.refused]
    if not found.cases and not found.refused:
        named = ", ".join(map(shown, keys[:3])) or "nothing"
        raise StepError(
            f"INPUT={folder}: no scans among {len(keys)} files ({named}, ...). Give a folder of .nii or .nii.gz files, "
            "or one laid out as images/NAME.nii.gz or sub-X/ses-Y/dwi/sub-X_ses-Y_dwi.nii.gz."
        )
    return found


def _is_mask(key: str) -> bool:
    flat = FLAT.match(key)
    return bool(flat[1] == "masks" if flat else BIDS_MASK.match(key) or "derivatives/" in key)


def _as_they_lie(keys: list[str]) -> Found:
    """A case for each NIfTI file under its own name; `NAME_adc` and `NAME_b0` belong to `NAME_dwi` or `NAME`."""
    stems: dict[str, list[str]] = defaultdict(list)
    refused: dict[str, str] = {}
    for key in keys:
        if match := NIFTI.match(key):
            stems[match[1].casefold()].append(key)
        elif key.lower().endswith(".npy"):
            refused[key] = NO_SPACE
    for same in (s for s in stems.values() if len(s) > 1):
        refused |= {key: f"names that differ only in case or packing: {', '.join(same)}" for key in same}
    scans = {stem: NIFTI.match(same[0])[1] for stem, same in stems.items() if len(same) == 1 and not MASK.search(stem)}
    cases: dict[str, Case] = {}
    companions: list[tuple[str, str, str]] = []
    for stem, name in scans.items():
        if match := COMPANION.match(stem):
            companions.append((match[1], match[2], stems[stem][0]))
        else:
            cases[stem] = Case(name, name, image=[stems[stem][0]])
    for stem, kind, key in companions:
        case = cases.get(f"{stem}_dwi") or cases.get(f"{stem}-dwi") or cases.get(stem)
        if case:
            setattr(case, kind, key)
        elif kind == "adc":
            refused[key] = "ADC map without a DWI scan"
    everything = set(keys)
    for case in cases.values():
        case.find_b_values(everything)
    used = {key for case in cases.values() for key in case.keys} | refused.keys()
    return Found("as they lie", [cases[s] for s in sorted(cases)], refused, [k for k in keys if k not in used])
