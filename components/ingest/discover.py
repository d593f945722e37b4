"""Find the cases in a list of keys, in the layout images/masks or in that of ISLES'22 and BIDS."""

from collections import defaultdict
from collections.abc import Iterable

from components.core.errors import StepError
from components.core.text import look, shown
from components.ingest.bids import find_bids
from components.ingest.file_names import (
    BIDS_DWI,
    DERIVED,
    FLAT,
    HIDDEN,
    OUTSIDE,
    SCAN_ENDING,
    SOURCE,
    name_problem,
    similar_names,
)
from components.ingest.flat import find_flat
from components.ingest.found_files import Found, in_predictions, is_table, prediction_folders

EXPECTED = (
    "Expected either images/NAME.nii.gz (or .npy) with masks/NAME of the same name, "
    "or sub-X/ses-Y/dwi/sub-X_ses-Y_dwi.nii.gz with masks under derivatives/sub-X/."
)


def discover(keys: Iterable[str]) -> Found:
    """Find the cases among `keys`. Files below `sourcedata/` are ignored, as BIDS requires.

    Raises:
        StepError: the keys have no known layout, or both layouts.
    """
    everything, refused = sorted(keys), {}
    for key in everything:
        if (why := name_problem(key)) and (OUTSIDE.search(key) or not HIDDEN.search(key)) and SCAN_ENDING.search(key):
            refused[shown(key)] = why
    usable = [k for k in everything if not HIDDEN.search(k) and not name_problem(k)]
    source, keys = [k for k in usable if SOURCE.search(k)], [k for k in usable if not SOURCE.search(k)]
    tables = [k for k in keys if is_table(k)]
    predicted = prediction_folders(tables)
    scans = [k for k in keys if not DERIVED.search(k) and not in_predictions(k, predicted)]
    in_flat, in_bids = ([k for k in scans if pattern.match(k)] for pattern in (FLAT, BIDS_DWI))
    if in_flat and in_bids:
        raise StepError(f"two layouts at once: {in_flat[0]} and {in_bids[0]}. {EXPECTED} Keep them in two folders.")
    if not in_flat and not in_bids:
        examples = ", ".join(shown(k) for k in keys[:3]) or "no files"
        hint = " Files below sourcedata/ are ignored: to use them, give that folder itself." if source else ""
        raise StepError(f"no scans recognised among {len(everything)} files ({examples}, ...). {EXPECTED}{hint}")
    find = find_flat if in_flat else find_bids
    found = find([k for k in keys if in_bids or not DERIVED.search(k)], predicted)
    found.ignored = sorted({*found.ignored, *source, *(k for k in keys if in_flat and DERIVED.search(k))})
    found.tables = tables
    found.refused |= refused
    _refuse_similar_names(found)
    _refuse_files_that_are_folders(found, [*keys, *source])
    _assign_masks(found)
    return found


def _refuse_similar_names(found: Found) -> None:
    """Refuse cases with similar names or patients: one patient could count as two."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for case in found.cases:
        for name in (case.name, case.patient):
            spelled[look(name)].add(name)
    for case in found.cases:
        for name in (case.name, case.patient):
            if len(spelled[look(name)]) > 1:
                found.refused[case.name] = similar_names(spelled[look(name)])


def _refuse_files_that_are_folders(found: Found, keys: list[str]) -> None:
    """Refuse cases with keys such as a/b beside a/b/c: a bucket can hold both, a disk cannot."""
    folders = {key[:at] for key in keys for at in range(len(key)) if key[at] == "/"}
    both = folders.intersection(keys)
    for case in found.cases if both else ():
        for key in sorted(case.wanted):
            if at := next((k for k in both if key == k or key.startswith(f"{k}/")), None):
                found.refused[case.name] = f"{at} is a file and a folder at once: rename one"


def _assign_masks(found: Found) -> None:
    """Choose the mask of each case by its name; move a case to `unclear` if its masks must be read first."""
    cases, found.cases = found.cases, []
    for case in cases:
        if case.name in found.refused:
            continue
        if why := case.choose_mask([c for c in case.candidates if not c.predicted]):
            found.refused[case.name] = why
            found.unclear.append(case)
        else:
            found.cases.append(case)
