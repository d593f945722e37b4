"""Choose the network of another model by which a patient is predicted: one that has not seen the patient."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from components.artifacts.split_file import (
    AssignedPatient,
    RegisteredSplit,
    count_folds,
    fold_name,
    patients_learnt,
    patients_tested,
    subset_names,
)
from components.artifacts.trained_model import TrainedModel
from components.core.storage import normal_address

Subsets = dict[str, list[str]]
"""Subset to patients."""


@dataclass(frozen=True)
class UnseenPatients:
    """A network, and the patients whom it neither learnt from nor was tuned on."""

    network: nn.Module
    trained: TrainedModel
    patients: set[str]


def in_present_names(then: RegisteredSplit, images: Mapping[str, set[str]], data_uri: str | None) -> RegisteredSplit:
    """Return an earlier split with the names that its patients have now.

    As in the split step, a patient is recognised by an image, or else by the name at the same address. A patient of
    that name at another address is another person, and gets another name here.

    Args:
        then: The earlier split. Where its history does not know the address of a patient, the name alone counts.
        images: Present patient to the SHA-256 of the voxels of each scan.
        data_uri: The present address of the data; None if it is unknown: then names count at every address.
    """
    history = then.history.patients if then.history else []
    assigned: dict[tuple[str, str], list[AssignedPatient]] = defaultdict(list)
    for one in history:
        assigned[one.subset, one.patient].append(one)
    earlier_images = {image for one in history for image in one.images}
    by_image: dict[str, set[str]] = defaultdict(set)
    for patient, own in images.items():
        for image in own:
            by_image[image].add(patient)
    here = data_uri and normal_address(data_uri)
    elsewhere = {uri for uri in {one.data_uri for one in history} if uri and here and normal_address(uri) != here}

    def names_now(subset: str, name: str) -> set[str]:
        known = assigned.get((subset, name), [])
        found = {patient for one in known for image in one.images for patient in by_image.get(image, ())}
        if name not in images:
            return found or {name}
        by_name = not images[name] & earlier_images and not (known and all(one.data_uri in elsewhere for one in known))
        return (found | {name} if by_name else found) or {f"an earlier {name}"}

    patients = {
        subset: sorted({new for name in names for new in names_now(subset, name)})
        for subset, names in then.patients.items()
    }
    return then.model_copy(update={"patients": patients})


def unseen_patients(
    network: nn.Module,
    trained: TrainedModel,
    then: RegisteredSplit | None,
    now: Subsets,
    images: Mapping[str, set[str]],
) -> list[UnseenPatients]:
    """Return which network of a model predicts which test patients of the split `now`.

    One network predicts the patients whom it has not seen. Of an ensemble, the network that held out a patient predicts
    that patient. A patient whom the ensemble does not know is predicted by the network of the fold that the patient is
    in now, or, in a split with other folds or none, by the whole ensemble.

    Args:
        network: As `load_model` returned it.
        trained: Its model.
        then: The split of the model, `in_present_names`; None if it is unknown.
        now: The patients of the present split.
        images: Patient to the SHA-256 of the voxels of each scan: renamed patients are recognised by them.
    """
    tested = patients_tested(now)
    if then is None or (not trained.networks and count_folds(now) == 1):
        return [UnseenPatients(network, trained, tested)]
    subsets_of = _earlier_subsets(then, tested, images)
    if not isinstance(network, nn.ModuleList):
        fair = {patient for patient in tested if subsets_of[patient] <= {"test"}}
        return [UnseenPatients(network, trained, fair)] if fair else []
    folds = subset_names(len(trained.networks))
    present = {p: fold for fold, patients in now.items() for p in patients} if set(now) == set(folds) else {}
    by_fold: dict[str, set[str]] = defaultdict(set)
    for patient in tested:
        known = subsets_of[patient] or ({present[patient]} if present else {""})
        if len(known) == 1:
            by_fold[known.pop()].add(patient)
    networks = {fold_name(n): pair for n, pair in enumerate(zip(network, trained.networks, strict=True), start=1)}
    networks[""] = (network, trained)
    return [UnseenPatients(*networks[fold], patients) for fold, patients in sorted(by_fold.items())]


def unfair_test_reason(name: str, now: Subsets, then: Subsets | None) -> str:
    """Return why the test patients of `now` are no fair test of a model with the split `then`; "" if they are.

    New test patients that neither model has seen are fair. A patient from whom the model learnt is not; if one of the
    splits has folds, `unseen_patients` leaves such patients out. All patients on whom the model was tested must be
    tested now. Of a model with folds these are all its patients: in a split without folds they may be in any subset.
    """
    if then is None:
        return f"the training patients of {name} are unknown: its MLflow run has no split.json of its own"
    test = patients_tested(now)
    if count_folds(now) == 1 and (seen := test & patients_learnt(then)):
        return f"{name} was trained or tuned on {len(seen)} of these {len(test)} test patients"
    everyone = {patient for patients in now.values() for patient in patients}
    if gone := patients_tested(then) - (test if count_folds(then) == 1 else everyone):
        return f"these are not the frozen test patients: {len(gone)} of {name}'s are not among them"
    return ""


def _earlier_subsets(then: RegisteredSplit, patients: set[str], images: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the subsets that each patient had in an earlier split, by name or by an image."""
    by_name: dict[str, set[str]] = defaultdict(set)
    by_image: dict[str, set[str]] = defaultdict(set)
    for subset, members in then.patients.items():
        for patient in members:
            by_name[patient].add(subset)
    for one in then.history.patients if then.history else []:
        for image in one.images:
            by_image[image].add(one.subset)
    return {
        patient: {subset for image in images[patient] for subset in by_image.get(image, ())} or by_name[patient]
        for patient in patients
    }
