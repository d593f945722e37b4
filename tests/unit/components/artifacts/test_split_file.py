"""The split file: its keys stay those that registered versions hold, so digests of histories stay too."""

import hashlib
import json

import pytest

from components.artifacts.split_file import RegisteredSplit, Split, SplitHistory
from tests.support.artifacts import make_split

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
