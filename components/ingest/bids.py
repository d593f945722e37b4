"""The layout of BIDS and ISLES'22: sub-X/ses-Y/dwi/sub-X_ses-Y_dwi, masks among the derivatives."""

import re
from collections.abc import Iterable

from components.core.text import composed, look
from components.ingest.file_names import (
    BIDS_B0,
    BIDS_DWI,
    BIDS_MASK,
    DERIVED,
    FLAT,
    contradiction,
    is_brain_mask,
    look_alike,
    session_in_name,
)
from components.ingest.found_files import Case, Found, candidate, in_predictions


def bids(keys: list[str], homes: set[str]) -> Found:
    """The cases among `keys`; `homes` are the folders in which `make predict` wrote."""
    cases: dict[str, Case] = {}
    refused: dict[str, str] = {}
    used: set[str] = set()
    known = set(keys)
    here = [key for key in keys if not DERIVED.search(key) and not in_predictions(key, homes)]
    for key, match in _matching(BIDS_DWI, here):
        case = cases.setdefault(_name(match), Case(_name(match), *_owner(match)))
        used.add(key)
        if match["kind"].lower() == "dwi":
            case.image.append(key)
        elif case.adc:
            refused[case.name] = f"two ADC maps: {case.adc}, {key}"
        else:
            case.adc = key
    for key, match in _matching(BIDS_B0, here):
        case = cases.get(_name(match))
        if case and not case.adc and not case.b0:
            case.b0 = key
            case.find_b_values(known)
            used.update([key, *case.b_values])
    refused |= _refused_by_name(cases.values())

    as_seen = {look(name): name for name in cases}
    for key, match in _matching(BIDS_MASK, keys):
        if is_brain_mask(key) or in_predictions(key, homes):
            continue
        used.add(key)
        name = _name(match)
        if name in cases:
            if cases[name].image:
                cases[name].candidates.append(candidate(cases[name].image[:1], [key], predicted=False))
        elif other := as_seen.get(look(name)):
            refused |= dict.fromkeys((name, other), look_alike((name, other)))
        else:
            refused[name] = "mask without a DWI scan"
    for key, match in _matching(FLAT, keys):
        case = cases.get(composed(match["stem"]))
        if case and case.image and match["kind"].lower() == "masks" and in_predictions(key, homes):
            case.candidates.append(candidate(case.image[:1], [key], predicted=True))
            used.add(key)
    for case in cases.values():
        masks = [key for c in case.candidates if not c.predicted for key in c.keys]
        if case.name not in refused and (why := _two_owners(case, [*case.keys, *masks])):
            refused[case.name] = why
    usable = [cases[n] for n in sorted(cases) if n not in refused]
    return Found("BIDS", usable, refused, [k for k in keys if k not in used])


def _matching(pattern: re.Pattern, keys: Iterable[str]) -> list[tuple[str, re.Match]]:
    return [(key, match) for key in keys if (match := pattern.match(key))]


def _owner(match: re.Match) -> tuple[str, str | None]:
    return composed(match["subject"]), match["session"] and composed(match["session"])


def _name(match: re.Match) -> str:
    return "_".join(filter(None, _owner(match)))


def _refused_by_name(cases: Iterable[Case]) -> dict[str, str]:
    refused = {}
    for case in cases:
        if not case.image:
            refused[case.name] = "ADC map without a DWI scan"
        if len(case.image) > 1:
            refused[case.name] = f"{len(case.image)} DWI scans where one is expected: {', '.join(case.image)}"
    return refused


def _two_owners(case: Case, keys: list[str]) -> str | None:
    """Why the files of a case are not known to be of one patient and session; None where they are."""
    if why := next(filter(None, map(contradiction, keys)), None):
        return why
    root = BIDS_DWI.match(case.image[0])["root"]
    for key, pattern in ((case.adc, BIDS_DWI), (case.b0, BIDS_B0)):
        if key and pattern.match(key)["root"] != root:
            return f"{case.image[0]} and {key} lie in two data sets: move one, or rename it if it is another patient's"
    if case.session is None:
        named = {session: key for key in keys if (session := session_in_name(key))}
        if len(named) > 1:
            return f"its files name several sessions: {', '.join(named.values())}. Keep each in a folder ses-Y."
    return None
