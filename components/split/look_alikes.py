"""Refuse a split with near-duplicate scans of different patients in two subsets."""

import logging
from collections.abc import Mapping

from components.artifacts.cases import Case
from components.core.errors import StepError
from components.scans.near_duplicates import SIDE, alike
from components.split.assignment import Group

MOST_NAMED = 5


def look_alikes(cases: list[Case], groups: list[Group], subset_of: Mapping[str, str]) -> list[tuple[str, str, float]]:
    """Return pairs of cases of different patients that look alike, and their similarity.

    Sessions of one patient, or of patients in one group, may look alike and are not listed. `subset_of` maps a patient
    to a subset.

    Raises:
        StepError: the cases of such a pair are in two subsets.
    """
    group_of = {patient: group for group in groups for patient in group}
    if thin := sum(case.portrait is None for case in cases):
        logging.info("%d scans cannot be searched for look-alikes: fewer than %d slices, or no head found", thin, SIDE)
    within, across = [], []
    for i, j, similarity in alike([case.portrait for case in cases]):
        one, other = cases[i], cases[j]
        subset, other_subset = subset_of[one.patient], subset_of[other.patient]
        if subset != other_subset:
            across.append(f"{one.case} ({subset}) and {other.case} ({other_subset}), similarity {similarity:.3f}")
        elif group_of[one.patient] != group_of[other.patient]:
            within.append((one.case, other.case, round(similarity, 4)))
    if across:
        more = f"; and {len(across) - MOST_NAMED} more pairs" if len(across) > MOST_NAMED else ""
        raise StepError(
            f"these scans look the same: {'; '.join(across[:MOST_NAMED])}{more}. The model would be tested on a scan "
            "that it learnt from. Remove one of each pair; or, if both are of one patient, give both one patient name."
        )
    return within
