"""Carry a split on: known patients stay where they are, new ones become known."""

from collections.abc import Iterable

from components.core.step import StepError
from components.core.text import PSEUDONYM, look
from components.registry.split_history import ANEW


def without_plain_names(lineage: dict, patients: Iterable[str]) -> dict:
    """Return the lineage as data under pseudonyms may carry it on: without the names of runs that had no key.

    Such patients are known by their images from then on. Where `patients` are not all pseudonyms, nothing changes.
    """
    if not all(_is_pseudonym(name) for name in patients):
        return lineage
    people = [
        person if _is_pseudonym(person["patient"]) else {**person, "patient": f"earlier patient {number}"}
        for number, person in enumerate(lineage["people"], 1)
    ]
    return {**lineage, "people": people}


def _is_pseudonym(patient: str) -> bool:
    return PSEUDONYM.fullmatch(patient.removeprefix("sub-")) is not None


def known_subsets(
    groups: list[frozenset[str]], cases: list[dict], people: Iterable[dict], data_uri: str
) -> dict[frozenset[str], str]:
    """The groups of which somebody is known, and their subset. `people` as in a lineage.

    A patient is known by an image, or, where no image is known, by the name at the same address, as it looks: in
    capitals or not, and however its letters are coded.

    Raises:
        StepError: members of one group are known from two subsets.
    """
    by_image = {digest: person for person in people for digest in person["images"]}
    by_name = {(look(person["patient"]), person["data_uri"]): person for person in people}
    by_name |= {(person["patient"], person["data_uri"]): person for person in people}
    images_of: dict[str, list[str]] = {}
    for case in cases:
        images_of.setdefault(case["patient"], []).append(case["voxel_sha256"])
    subset_of = {}
    for group in groups:
        found = [(p, person) for p in sorted(group) for person in _known(p, images_of[p], data_uri, by_image, by_name)]
        if not found:
            continue
        (patient, person), subset_of[group] = found[0], found[0][1]["subset"]
        for other, their in found:
            if their["subset"] != person["subset"]:
                raise StepError(
                    f"{_told(patient, person)} and {_told(other, their)} hold the same image or have one name now, "
                    "and what was learnt from is never tested on. Remove one of them. " + ANEW
                )
    return subset_of


def _known(patient: str, images: list[str], data_uri: str, by_image: dict, by_name: dict) -> list[dict]:
    if seen := [by_image[digest] for digest in images if digest in by_image]:
        return seen
    spelled = [(name, place) for place in (data_uri, None) for name in (patient, look(patient))]
    named = next((by_name[key] for key in spelled if key in by_name), None)
    return [named] if named else []


def _told(patient: str, person: dict) -> str:
    now = f", here named {patient}" if person["patient"] != patient else ""
    return f"{person['patient']} ({person['subset']} in earlier runs{now})"


def extended(lineage: dict | None, cases: list[dict], assignment: dict[str, str], data_uri: str, drawn: dict) -> dict:
    """The lineage with these patients and their images; where they add nothing to it, it is the same as before."""
    before = lineage["people"] if lineage else []
    people = {(p["patient"], p["data_uri"], p["subset"]): {**p, "images": list(p["images"])} for p in before}
    for case in sorted(cases, key=lambda c: c["case"]):
        patient, subset = case["patient"], assignment[case["patient"]]
        if nowhere := people.pop((patient, None, subset), None):
            people.setdefault((patient, data_uri, subset), {**nowhere, "data_uri": data_uri})
        new = {"patient": patient, "data_uri": data_uri, "subset": subset, "images": []}
        person = people.setdefault((patient, data_uri, subset), new)
        if case["voxel_sha256"] not in person["images"]:
            person["images"].append(case["voxel_sha256"])
    if list(people.values()) == before:
        return lineage
    return {"people": list(people.values()), "drawn": drawn}
