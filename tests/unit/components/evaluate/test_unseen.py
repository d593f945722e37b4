"""Which network of a champion may predict a patient: one that neither learnt from nor was tuned on that patient."""

import pytest
from torch import nn

from components.artifacts.split_file import AssignedPatient, RegisteredSplit, SplitHistory
from components.evaluate.unseen import unfair_test_reason, unseen_patients
from tests.support.trained import trained

SINGLE = {"train": ["A", "B"], "val": ["C"], "test": ["D", "E"]}
FOLDS = {"fold-1": ["A", "D"], "fold-2": ["B", "E"], "fold-3": ["C", "F"]}
OTHER_FOLDS = {"fold-1": ["A"], "fold-2": ["B", "E"], "fold-3": ["C", "F"], "fold-4": ["D"]}
ONE = (nn.Linear(1, 1), trained())
MEMBERS = [nn.Linear(1, 1) for _ in range(3)]
ENSEMBLE = (nn.ModuleList(MEMBERS), trained(networks=[trained(threshold=n / 10) for n in (1, 2, 3)]))


def registered(patients: dict, images: dict[str, str] | None = None) -> RegisteredSplit:
    """A registered split; `images` maps an image to the subset that it was in, under another name."""
    earlier = [
        AssignedPatient(patient=f"old name of {image}", data_uri=None, subset=subset, images=[image])
        for image, subset in (images or {}).items()
    ]
    return RegisteredSplit(patients=patients, digest="d", history=SplitHistory(patients=earlier, drawn=None))


def chosen(model, then, now, images=None) -> dict[str, str]:
    """Patient to the network that predicts the patient: "1" to "3" of the ensemble, or "all"."""
    known = {patient: (images or {}).get(patient, set()) for names in now.values() for patient in names}
    found = {}
    for part in unseen_patients(*model, then, now, known):
        number = next((str(n) for n, member in enumerate(MEMBERS, 1) if member is part.network), "all")
        assert part.trained.threshold == (int(number) / 10 if number != "all" else 0.5)
        found |= dict.fromkeys(part.patients, number)
    return dict(sorted(found.items()))


def test_one_network_and_a_test_set_are_compared_as_ever():
    """Whether that is fair is decided afterwards, over the whole test set."""
    assert chosen(ONE, registered(SINGLE), SINGLE) == {"D": "all", "E": "all"}
    assert chosen(ONE, None, SINGLE) == {"D": "all", "E": "all"}


def test_folds_against_one_network_are_compared_on_what_that_network_was_tested_on_and_on_new_patients():
    assert chosen(ONE, registered(SINGLE), FOLDS) == {"D": "all", "E": "all", "F": "all"}


def test_each_patient_is_predicted_by_the_network_of_the_ensemble_that_held_the_patient_out():
    assert chosen(ENSEMBLE, registered(FOLDS), FOLDS) == {"A": "1", "B": "2", "C": "3", "D": "1", "E": "2", "F": "3"}
    assert chosen(ENSEMBLE, registered(FOLDS), SINGLE) == {"D": "1", "E": "2"}
    assert chosen(ENSEMBLE, registered(FOLDS), OTHER_FOLDS)["D"] == "1"


def test_a_new_patient_is_predicted_by_the_network_of_the_fold_that_the_patient_is_in_now():
    now = {**FOLDS, "fold-2": ["B", "E", "new"]}
    assert chosen(ENSEMBLE, registered(FOLDS), now)["new"] == "2"


def test_a_new_patient_of_another_split_is_predicted_by_the_whole_ensemble():
    assert chosen(ENSEMBLE, registered(FOLDS), {**SINGLE, "test": ["D", "new"]}) == {"D": "1", "new": "all"}


@pytest.mark.parametrize(
    ("model", "then", "now"),
    [(ONE, SINGLE, FOLDS), (ENSEMBLE, FOLDS, SINGLE)],
    ids=["one network", "an ensemble"],
)
def test_a_patient_under_a_new_name_is_recognised_by_the_images(model, then, now):
    """Else the network that learnt from those scans would be tested on them."""
    renamed = {**now, list(now)[-1]: [*now[list(now)[-1]], "renamed"]}
    subset = "train" if then is SINGLE else "fold-2"
    known = registered(then, {"image": subset})
    found = chosen(model, known, renamed, {"renamed": {"image"}})
    assert found.get("renamed") == (None if then is SINGLE else "2")


def test_a_patient_with_scans_of_two_folds_is_predicted_by_nobody():
    then = registered(FOLDS, {"one": "fold-1", "two": "fold-2"})
    assert "F" not in chosen(ENSEMBLE, then, FOLDS, {"F": {"one", "two"}})


def test_a_network_that_has_seen_every_patient_predicts_nobody():
    assert chosen(ONE, registered({**SINGLE, "train": list("ABCDEF"), "val": [], "test": []}), FOLDS) == {}


@pytest.mark.parametrize(("now", "then"), [(FOLDS, FOLDS), (OTHER_FOLDS, FOLDS), (FOLDS, SINGLE), (SINGLE, FOLDS)])
def test_with_folds_on_one_side_or_both_the_comparison_is_fair(now, then):
    assert unfair_test_reason("version 3", now, then) == ""


def test_with_folds_too_the_patients_of_the_champions_test_set_must_all_be_there():
    text = unfair_test_reason("version 3", {**FOLDS, "fold-1": ["A"]}, SINGLE)
    assert text == "these are not the frozen test patients: 1 of version 3's are not among them"


def test_an_ensemble_with_unknown_patients_is_not_comparable():
    assert "are unknown" in unfair_test_reason("version 3", FOLDS, None)
