"""Find cases in the layout of BIDS and ISLES'22: sub-X/ses-Y/dwi/sub-X_ses-Y_dwi, masks below derivatives/."""

import re
from collections.abc import Iterable

from components.core.text import composed, look
from components.ingest.file_names import (
    BIDS_B0,
    BIDS_DWI,
    BIDS_MASK,
    DERIVED,
    FLAT,
    data_set_folder,
    is_brain_mask,
    owner_conflict,
    session_in_name,
    similar_names,
)
from components.ingest.found_files import Found, FoundCase, in_predictions, mask_candidate


def find_bids(keys: list[str], prediction_folders: set[str]) -> Found:
    """Find the cases among `keys`. `make predict` wrote into `prediction_folders`."""
    cases: dict[str, FoundCase] = {}
    refused: dict[str, str] = {}
    used: set[str] = set()
    all_keys = set(keys)
    scans = [key for key in keys if not DERIVED.search(key) and not in_predictions(key, prediction_folders)]
    for key, match in _matching(BIDS_DWI, scans):
        case = cases.setdefault(_name(match), FoundCase(_name(match), *_owner(match)))
        used.add(key)
        if match["kind"].lower() == "dwi":
            case.image.append(key)
        elif case.adc:
            refused[case.name] = f"two ADC maps: {case.adc}, {key}"
        else:
            case.adc = key
    for key, match in _matching(BIDS_B0, scans):
        scan = cases.get(_name(match))
        if scan and not scan.adc and not scan.b0:
            scan.b0 = key
            scan.find_b_values(all_keys)
            used.update([key, *scan.b_values])
    refused |= _refused_by_name(cases.values())

    name_by_look = {look(name): name for name in cases}
    for key, match in _matching(BIDS_MASK, keys):
        if is_brain_mask(key) or in_predictions(key, prediction_folders):
            continue
        used.add(key)
        name = _name(match)
        if name in cases:
            if cases[name].image:
                cases[name].candidates.append(mask_candidate(cases[name].image[:1], [key], predicted=False))
        elif other := name_by_look.get(look(name)):
            refused |= dict.fromkeys((name, other), similar_names((name, other)))
        else:
            refused[name] = "mask without a DWI scan"
    for key, match in _matching(FLAT, keys):
        scan = cases.get(composed(match["stem"]))
        if scan and scan.image and match["kind"].lower() == "masks" and in_predictions(key, prediction_folders):
            scan.candidates.append(mask_candidate(scan.image[:1], [key], predicted=True))
            used.add(key)
    for case in cases.values():
        masks = [key for c in case.candidates if not c.predicted for key in c.keys]
        if case.name not in refused and (why := _conflicting_owners(case, [*case.keys, *masks])):
            refused[case.name] = why
    usable = [cases[n] for n in sorted(cases) if n not in refused]
    return Found("BIDS", usable, refused, [k for k in keys if k not in used])


def _matching(pattern: re.Pattern, keys: Iterable[str]) -> list[tuple[str, re.Match]]:
    return [(key, match) for key in keys if (match := pattern.match(key))]


def _owner(match: re.Match) -> tuple[str, str | None]:
    return composed(match["subject"]), match["session"] and composed(match["session"])


def _name(match: re.Match) -> str:
    return "_".join(filter(None, _owner(match)))


def _refused_by_name(cases: Iterable[FoundCase]) -> dict[str, str]:
    refused = {}
    for case in cases:
        if not case.image:
            refused[case.name] = "ADC map without a DWI scan"
        if len(case.image) > 1:
            refused[case.name] = f"{len(case.image)} DWI scans where one is expected: {', '.join(case.image)}"
    return refused


def _conflicting_owners(case: FoundCase, keys: list[str]) -> str | None:
    """Return why the files of a case may belong to two patients or sessions; None if they agree."""
    if why := next(filter(None, map(owner_conflict, keys)), None):
        return why
    for key in filter(None, (case.adc, case.b0)):
        if data_set_folder(key) != data_set_folder(case.image[0]):
            return f"{case.image[0]} and {key} are in two data sets: move one, or rename it if its patient is another"
    if case.session is None:
        named = {session: key for key in keys if (session := session_in_name(key))}
        if len(named) > 1:
            return f"its files name several sessions: {', '.join(named.values())}. Keep each in a folder ses-Y."
    return None
