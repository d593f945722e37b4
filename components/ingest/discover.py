"""Find the cases in a list of keys: the user's own layout, or ISLES'22 / BIDS."""

from collections import defaultdict
from collections.abc import Iterable

from components.core.step import StepError
from components.core.text import look, shown
from components.ingest.bids import bids
from components.ingest.file_names import (
    BIDS_DWI,
    DERIVED,
    FLAT,
    HIDDEN,
    OUTSIDE,
    SCAN_ENDING,
    SOURCE,
    look_alike,
    unfit,
)
from components.ingest.flat import flat
from components.ingest.found_files import Found, homes, in_predictions, is_table

EXPECTED = (
    "Expected either images/NAME.nii.gz (or .npy) with masks/NAME of the same name, "
    "or sub-X/ses-Y/dwi/sub-X_ses-Y_dwi.nii.gz with masks under derivatives/sub-X/."
)


def discover(keys: Iterable[str]) -> Found:
    """Cases among `keys`. What lies below `sourcedata/` is left alone, as BIDS says.

    Raises:
        StepError: no layout is recognised, or both are.
    """
    everything, refused = sorted(keys), {}
    for key in everything:
        if (why := unfit(key)) and (OUTSIDE.search(key) or not HIDDEN.search(key)) and SCAN_ENDING.search(key):
            refused[shown(key)] = why
    usable = [k for k in everything if not HIDDEN.search(k) and not unfit(k)]
    source, keys = [k for k in usable if SOURCE.search(k)], [k for k in usable if not SOURCE.search(k)]
    tables = [k for k in keys if is_table(k)]
    predictions = homes(tables)
    scans = [k for k in keys if not DERIVED.search(k) and not in_predictions(k, predictions)]
    in_flat, in_bids = ([k for k in scans if pattern.match(k)] for pattern in (FLAT, BIDS_DWI))
    if in_flat and in_bids:
        raise StepError(f"two layouts at once: {in_flat[0]} and {in_bids[0]}. {EXPECTED} Keep them in two folders.")
    if not in_flat and not in_bids:
        named = ", ".join(shown(k) for k in keys[:3]) or "nothing"
        hint = " Files below sourcedata/ are left alone: name that folder itself to use them." if source else ""
        raise StepError(f"no scans recognised among {len(everything)} files ({named}, ...). {EXPECTED}{hint}")
    found = (flat if in_flat else bids)([k for k in keys if in_bids or not DERIVED.search(k)], predictions)
    found.ignored = sorted({*found.ignored, *source, *(k for k in keys if in_flat and DERIVED.search(k))})
    found.tables = tables
    found.refused |= refused
    _refuse_look_alikes(found)
    _refuse_files_that_are_folders(found, [*keys, *source])
    _label(found)
    return found


def _refuse_look_alikes(found: Found) -> None:
    """Refuse cases whose names or patients look alike: one patient could be taken for two."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for case in found.cases:
        for name in (case.name, case.patient):
            spelled[look(name)].add(name)
    for case in found.cases:
        for name in (case.name, case.patient):
            if len(spelled[look(name)]) > 1:
                found.refused[case.name] = look_alike(spelled[look(name)])


def _refuse_files_that_are_folders(found: Found, keys: list[str]) -> None:
    """A bucket can hold a/b and a/b/c; a disk cannot."""
    folders = {key[:at] for key in keys for at in range(len(key)) if key[at] == "/"}
    both = folders.intersection(keys)
    for case in found.cases if both else ():
        for key in sorted(case.wanted):
            if at := next((k for k in both if key == k or key.startswith(f"{k}/")), None):
                found.refused[case.name] = f"{at} is a file and a folder at once: rename one"


def _label(found: Found) -> None:
    """Give each case its mask, as far as names tell; a case whose masks must be read first is unclear until then."""
    cases, found.cases = found.cases, []
    for case in cases:
        if case.name in found.refused:
            continue
        if why := case.label([c for c in case.candidates if not c.predicted]):
            found.refused[case.name] = why
            found.unclear.append(case)
        else:
            found.cases.append(case)
