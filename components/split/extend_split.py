"""Extend the split history: patients of earlier splits keep their subset, new patients are added."""

from collections.abc import Iterable, Mapping

from components.artifacts.cases import Case
from components.artifacts.split_file import AssignedPatient, SplitHistory, SplitSource
from components.core.errors import StepError
from components.core.text import is_pseudonym, look
from components.registry.split_history import DRAW_AGAIN
from components.split.assignment import Group


def without_plain_names(history: SplitHistory, patients: Iterable[str]) -> SplitHistory:
    """Return the history without real names, if all `patients` are pseudonyms; else unchanged.

    Earlier runs without a pseudonym key wrote real names. Those patients are recognised by their images.
    """
    if not all(is_pseudonym(name) for name in patients):
        return history
    renamed = [
        earlier if is_pseudonym(earlier.patient) else earlier.model_copy(update={"patient": f"earlier patient {n}"})
        for n, earlier in enumerate(history.patients, 1)
    ]
    return history.model_copy(update={"patients": renamed})


def earlier_subsets(groups: list[Group], cases: list[Case], history: SplitHistory, data_uri: str) -> dict[Group, str]:
    """Return the subset of each group that has a patient of an earlier split.

    A patient is recognised by an image. If none of the images is in the history, the patient is recognised by the name
    at the same address, in the form of `look`: without case and in one Unicode form.

    Raises:
        StepError: one group has patients of two subsets.
    """
    by_image = {digest: earlier for earlier in history.patients for digest in earlier.images}
    by_name = {(look(earlier.patient), earlier.data_uri): earlier for earlier in history.patients}
    by_name |= {(earlier.patient, earlier.data_uri): earlier for earlier in history.patients}
    images_of: dict[str, list[str]] = {}
    for case in cases:
        images_of.setdefault(case.patient, []).append(case.voxel_sha256)
    subset_of: dict[Group, str] = {}
    for group in groups:
        found = [
            (patient, earlier)
            for patient in sorted(group)
            for earlier in _recognise(patient, images_of[patient], data_uri, by_image, by_name)
        ]
        for patient, earlier in found:
            first_patient, first = found[0]
            if earlier.subset != first.subset:
                raise StepError(
                    f"{_describe(first_patient, first)} and {_describe(patient, earlier)} now share an image or a "
                    "name, but a patient of the training set must not be in the test set. Remove one of them. "
                    + DRAW_AGAIN
                )
            subset_of[group] = earlier.subset
    return subset_of


def _recognise(
    patient: str,
    images: list[str],
    data_uri: str,
    by_image: Mapping[str, AssignedPatient],
    by_name: Mapping[tuple[str, str | None], AssignedPatient],
) -> list[AssignedPatient]:
    """Return the patients of earlier splits who have the images of this patient, or else the name."""
    if found := [by_image[digest] for digest in images if digest in by_image]:
        return found
    keys = [(name, address) for address in (data_uri, None) for name in (patient, look(patient))]
    return next(([by_name[key]] for key in keys if key in by_name), [])


def _describe(patient: str, earlier: AssignedPatient) -> str:
    new_name = f", here named {patient}" if earlier.patient != patient else ""
    return f"{earlier.patient} ({earlier.subset} in earlier runs{new_name})"


def extended_history(
    history: SplitHistory | None, cases: list[Case], subset_of: Mapping[str, str], drawn: SplitSource
) -> SplitHistory:
    """Return the history with the patients and images of these cases; unchanged if it has all of them.

    Args:
        history: The history to extend; None for a new one.
        cases: The cases of this split.
        subset_of: Patient to subset.
        drawn: The source of this split.
    """
    before = history.patients if history else []
    after = {(p.patient, p.data_uri, p.subset): p for p in before}
    for case in sorted(cases, key=lambda c: c.case):
        subset = subset_of[case.patient]
        key = (case.patient, drawn.data_uri, subset)
        if without_address := after.pop((case.patient, None, subset), None):
            after.setdefault(key, without_address.model_copy(update={"data_uri": drawn.data_uri}))
        new = AssignedPatient(patient=case.patient, data_uri=drawn.data_uri, subset=subset, images=[])
        assigned = after.setdefault(key, new)
        if case.voxel_sha256 not in assigned.images:
            after[key] = assigned.model_copy(update={"images": [*assigned.images, case.voxel_sha256]})
    if history and list(after.values()) == before:
        return history
    return SplitHistory(patients=list(after.values()), drawn=drawn)
