"""Which network of a champion may predict a patient: one that neither learnt from nor was tuned on that patient."""

import pytest
from torch import nn

from components.artifacts.split_file import AssignedPatient, RegisteredSplit, SplitHistory, patients_tested
from components.evaluate.unseen import in_present_names, unfair_test_reason, unseen_patients
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


SINGLE_OF_ALL = {**SINGLE, "train": ["A", "B", "F"]}
"""A single split of the patients of the folds."""


@pytest.mark.parametrize(
    ("now", "then"), [(FOLDS, FOLDS), (OTHER_FOLDS, FOLDS), (FOLDS, SINGLE), (SINGLE_OF_ALL, FOLDS)]
)
def test_with_folds_on_one_side_or_both_the_comparison_is_fair(now, then):
    assert unfair_test_reason("version 3", now, then) == ""


def test_with_folds_too_the_patients_of_the_champions_test_set_must_all_be_there():
    text = unfair_test_reason("version 3", {**FOLDS, "fold-1": ["A"]}, SINGLE)
    assert text == "these are not the frozen test patients: 1 of version 3's are not among them"


OTHER_SITE = {"fold-1": ["K", "N"], "fold-2": ["L", "O"], "fold-3": ["M", "P"]}


@pytest.mark.parametrize("now", [OTHER_SITE, {"train": ["K", "L"], "val": ["M"], "test": ["N", "O", "P"]}])
def test_a_model_of_another_site_alone_is_not_comparable_with_a_champion_of_folds(now):
    """Else the champion of one site is replaced by a model that was never tested there."""
    text = unfair_test_reason("version 3", now, FOLDS)
    assert text == "these are not the frozen test patients: 6 of version 3's are not among them"


@pytest.mark.parametrize("now", [{**FOLDS, "fold-3": ["C"]}, SINGLE])
def test_one_patient_of_a_champion_of_folds_who_left_the_data_makes_it_another_test(now):
    assert "1 of version 3's are not among them" in unfair_test_reason("version 3", now, FOLDS)


HERE, THERE = "s3://bucket/scans", "s3://elsewhere/scans"


def stored_at(data_uri: str | None, patients: dict, image: str = "image of") -> RegisteredSplit:
    """A split of patients at an address, one image each."""
    assigned = [
        AssignedPatient(patient=name, data_uri=data_uri, subset=subset, images=[f"{image} {name}"])
        for subset, names in patients.items()
        for name in names
    ]
    return RegisteredSplit(patients=patients, digest="d", history=SplitHistory(patients=assigned, drawn=None))


def images_of(names: str, image: str = "image of") -> dict[str, set[str]]:
    return {name: {f"{image} {name}"} for name in names}


@pytest.mark.parametrize(
    ("then", "now"), [(FOLDS, FOLDS), (FOLDS, SINGLE), (SINGLE, SINGLE)],
    ids=["folds, folds", "folds, one split", "one split, one split"],
)  # fmt: skip
def test_names_at_another_address_are_other_people(then, now):
    there = in_present_names(stored_at(THERE, then, "their image of"), images_of("ABCDEF"), HERE)
    gone = len(patients_tested(then))
    assert f"{gone} of version 3's are not among them" in unfair_test_reason("version 3", now, there.patients)


@pytest.mark.parametrize("known", [HERE, f"{HERE}/", None])
def test_at_the_same_or_an_unknown_address_the_name_counts(known):
    then = stored_at(known, FOLDS, "earlier image of")
    assert in_present_names(then, images_of("ABCDEF"), f"{HERE}/").patients == FOLDS


def test_data_that_moved_are_recognised_by_their_images_also_under_new_names():
    images = {f"new {name}": {f"image of {name}"} for name in "ABCDE"}
    found = in_present_names(stored_at(THERE, SINGLE), images, HERE).patients
    assert found == {subset: [f"new {name}" for name in names] for subset, names in SINGLE.items()}


def test_patients_who_changed_their_names_are_those_of_their_images():
    images = images_of("BCE") | {"A": {"image of D"}, "D": {"image of A"}}
    found = in_present_names(stored_at(HERE, SINGLE), images, HERE).patients
    assert found == {"train": ["B", "D"], "val": ["C"], "test": ["A", "E"]}


def test_two_patients_who_share_an_earlier_image_are_both_that_patient():
    images = images_of("BCDE") | {"one": {"image of A"}, "two": {"image of A"}}
    assert in_present_names(stored_at(HERE, SINGLE), images, HERE).patients["train"] == ["B", "one", "two"]


def test_a_renamed_patient_that_the_champion_learnt_from_makes_the_test_unfair():
    then = in_present_names(stored_at(HERE, SINGLE), images_of("BCDE") | {"renamed": {"image of A"}}, HERE)
    now = {"train": ["B"], "val": ["C"], "test": ["D", "E", "renamed"]}
    assert "trained or tuned on 1 of these 3" in unfair_test_reason("version 3", now, then.patients)


def test_an_ensemble_with_unknown_patients_is_not_comparable():
    assert "are unknown" in unfair_test_reason("version 3", FOLDS, None)
