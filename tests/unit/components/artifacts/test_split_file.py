"""The split file: its keys stay those that registered versions hold, so digests of histories stay too."""

import hashlib
import json

import pytest

from components.artifacts.artifact import InvalidArtifact
from components.artifacts.split_file import (
    HeldOutFold,
    RegisteredSplit,
    Split,
    SplitHistory,
    count_folds,
    patients_learnt,
    patients_tested,
)
from components.core.errors import StepError
from tests.support.artifacts import make_split
from tests.support.folds import split_into_folds

PATIENTS = {"train": ["a"], "val": ["b"], "test": ["c"]}
EARLIER = {"patient": "a", "data_uri": "s3://bucket/scans", "subset": "train", "images": ["0" * 64]}
DRAWN = {"data_version": "1", "settings": {"ratios": [0.8, 0.15, 0.05], "random_seed": 42}, "lineage": ""}


def digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def test_a_split_is_read_as_it_was_written(tmp_path):
    made = make_split(PATIENTS)
    made.write(tmp_path)
    assert Split.read(tmp_path) == made


@pytest.mark.parametrize(
    "history",
    [
        {"people": [], "drawn": None},
        {"people": [EARLIER], "drawn": DRAWN},
        {"people": [EARLIER, EARLIER | {"data_uri": None, "images": []}], "drawn": DRAWN | {"data_uri": "s3://b/p"}},
    ],
    ids=["names alone", "without an address", "today's"],
)
def test_a_history_of_any_release_keeps_its_digest(history):
    read = SplitHistory.model_validate(history)
    assert read.digest == SplitHistory.model_validate_json(read.model_dump_json()).digest == digest(history)


def test_an_old_registered_split_has_patients_and_digest_alone():
    old = RegisteredSplit.model_validate_json(json.dumps({"patients": PATIENTS, "digest": "d", "ratios": [1]}))
    assert (old.patients, old.digest, old.carry_split, old.history) == (PATIENTS, "d", True, None)


FOLDS = {"fold-1": ["a", "b"], "fold-2": ["c"], "fold-3": ["d"], "fold-4": ["e", "f"]}


def test_the_fold_after_the_held_out_one_validates_and_the_rest_trains():
    whole = split_into_folds(FOLDS)
    second, last = whole.of_fold(2), whole.of_fold(4)
    assert second.patients == {"train": ["a", "b", "e", "f"], "val": ["d"], "test": ["c"]}
    assert last.patients == {"train": ["c", "d"], "val": ["a", "b"], "test": ["e", "f"]}
    assert last.cases == last.patients
    assert last.held_out == HeldOutFold(fold=4, folds=4, split_digest=whole.digest)
    assert last.ratios_asked == {"train": 0.5, "val": 0.25, "test": 0.25}
    assert last.ratios_reached == {"train": 2 / 6, "val": 2 / 6, "test": 2 / 6}
    assert last.history_digest == whole.history_digest
    assert len({whole.of_fold(fold).digest for fold in range(1, 5)} | {whole.digest}) == 5


def test_each_patient_is_held_out_once_and_validates_once():
    whole = split_into_folds(FOLDS)
    for subset in ("test", "val"):
        held_out = [p for fold in range(1, 5) for p in whole.of_fold(fold).patients[subset]]
        assert sorted(held_out) == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize("subsets", [PATIENTS, FOLDS], ids=["a split", "folds"])
@pytest.mark.parametrize("what", ["patients", "cases"])
def test_a_patient_or_a_scan_that_was_planted_in_two_subsets_is_refused(tmp_path, subsets, what):
    made = make_split(subsets)
    first, *_, last = subsets
    planted = {**getattr(made, what), last: [*getattr(made, what)[last], "a"]}
    made.model_copy(update={what: planted}).write(tmp_path)
    with pytest.raises(InvalidArtifact, match=f"the {what[:-1]} a is in {first} and {last}"):
        Split.read(tmp_path)


def test_networks_must_have_been_trained_without_their_folds():
    whole = split_into_folds(FOLDS)
    digests = [whole.of_fold(fold).digest for fold in range(1, 5)]
    whole.require_held_out(digests)
    with pytest.raises(StepError, match="the network of fold 2 was not trained without this fold"):
        whole.require_held_out([digests[0], digests[0], *digests[2:]])
    with pytest.raises(StepError, match="4 folds, and there are 3 networks"):
        whole.require_held_out(digests[:3])


def test_patients_of_all_folds_are_tested_and_only_those_of_a_test_set():
    assert (count_folds(FOLDS), patients_tested(FOLDS), patients_learnt(FOLDS)) == (4, set("abcdef"), set())
    assert (count_folds(PATIENTS), patients_tested(PATIENTS), patients_learnt(PATIENTS)) == (1, {"c"}, {"a", "b"})


@pytest.mark.parametrize("subsets", [PATIENTS, FOLDS], ids=["a split", "folds"])
def test_a_scan_of_a_patient_that_was_moved_to_another_subset_is_refused(subsets):
    made = make_split(subsets, ratios_asked=dict.fromkeys(subsets, 0.25))
    first, *_, last = subsets
    patient_of = {name: name for names in subsets.values() for name in names}
    made.require_own_cases(patient_of)
    moved = {**made.cases, first: made.cases[first][1:], last: ["a", *made.cases[last]]}
    altered = made.model_copy(update={"cases": moved})
    with pytest.raises(StepError, match=f"the case a is in {last}, and its patient a is in {first}"):
        altered.require_own_cases(patient_of)
    if subsets is FOLDS:
        with pytest.raises(StepError, match="the case a is in test, and its patient a is in val"):
            altered.of_fold(4).require_own_cases(patient_of)
