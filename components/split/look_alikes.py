"""Scans that look like one, under whatever header, may not lie in two subsets."""

import logging

from components.core.step import StepError
from components.scans.near_duplicates import SIDE, alike

MOST_NAMED = 5


def look_alikes(
    cases: list[dict], groups: list[frozenset[str]], assignment: dict[str, str]
) -> list[tuple[str, str, float]]:
    """Pairs of cases of different patients that look like one scan, in one subset each, and how alike they are.

    Sessions of one patient, and of patients who are kept together anyway (`groups`), may look alike.

    Raises:
        StepError: such a pair lies across two subsets.
    """
    group_of = {patient: group for group in groups for patient in group}
    if thin := sum(case["portrait"] is None for case in cases):
        logging.info(
            "%d scans show too little (fewer than %d slices, or no head) to be searched for look-alikes", thin, SIDE
        )
    within, across = [], []
    for i, j, likeness in alike([case["portrait"] for case in cases]):
        pair = [(case["case"], assignment[case["patient"]]) for case in (cases[i], cases[j])]
        (one, its), (other, others) = pair
        if its != others:
            across.append(f"{one} ({its}) and {other} ({others}), likeness {likeness:.3f}")
        elif group_of[cases[i]["patient"]] != group_of[cases[j]["patient"]]:
            within.append((one, other, round(likeness, 4)))
    if across:
        more = f"; and {len(across) - MOST_NAMED} pairs more" if len(across) > MOST_NAMED else ""
        raise StepError(
            f"these look like one scan, whatever their headers say: {'; '.join(across[:MOST_NAMED])}{more}. The test "
            "would be of what was learnt. Remove one of them, or, if both are one patient's, give both one name."
        )
    return within
