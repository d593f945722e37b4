"""Choose the network of another model by which a patient is predicted: one that has not seen the patient."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from components.artifacts.split_file import (
    RegisteredSplit,
    count_folds,
    fold_name,
    patients_learnt,
    patients_tested,
    subset_names,
)
from components.artifacts.trained_model import TrainedModel

Subsets = dict[str, list[str]]
"""Subset to patients."""


@dataclass(frozen=True)
class UnseenPatients:
    """A network, and the patients whom it neither learnt from nor was tuned on."""

    network: nn.Module
    trained: TrainedModel
    patients: set[str]


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
        then: The split of the model; None if it is unknown.
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

    New test patients that neither model has seen are fair. A patient who left the test set, or from whom the model
    learnt, is not. If one of the splits has folds, `unseen_patients` leaves out the patients that one model has seen;
    those of a test set must all be there.
    """
    if then is None:
        return f"the training patients of {name} are unknown: its MLflow run has no split.json of its own"
    test = patients_tested(now)
    if count_folds(now) == 1 and (seen := test & patients_learnt(then)):
        return f"{name} was trained or tuned on {len(seen)} of these {len(test)} test patients"
    if count_folds(then) == 1 and (gone := set(then["test"]) - test):
        return f"these are not the frozen test patients: {len(gone)} of {name}'s are not among them"
    return ""


def _earlier_subsets(then: RegisteredSplit, patients: set[str], images: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the subsets that each patient had in an earlier split, by name or by an image."""
    by_name = {patient: subset for subset, members in then.patients.items() for patient in members}
    earlier = then.history.patients if then.history else []
    by_image = {image: one.subset for one in earlier for image in one.images}
    return {
        patient: {by_image[image] for image in images[patient] if image in by_image}
        or ({by_name[patient]} if patient in by_name else set())
        for patient in patients
    }
