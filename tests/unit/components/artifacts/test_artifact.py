"""Artifacts: written and read unchanged; a wrong file is refused by file and field."""

import json

import pytest

from components.artifacts.evaluation import Comparison, Difference
from components.artifacts.split_file import Split
from components.artifacts.trained_model import TrainedModel
from components.core.errors import StepError

COMPARED = Comparison(
    champion="3",
    model="models:/m-1",
    reason="",
    pairs={"dice": {"sub-01": (0.1 + 0.2, float("nan"))}},
    differences={"dice": Difference(mean=0.1, ci_low=None, ci_high=None)},
)


def test_what_was_written_is_read(tmp_path):
    COMPARED.write(tmp_path)
    again = Comparison.read(tmp_path)
    assert again.model_dump_json() == COMPARED.model_dump_json()
    assert again.pairs["dice"]["sub-01"][0] == 0.1 + 0.2
    assert json.loads((tmp_path / "comparison.json").read_text())["format_version"] == 1


def test_an_artifact_of_one_file_needs_no_folder(tmp_path):
    COMPARED.write(tmp_path / "other-name")
    assert Comparison.read(tmp_path / "other-name").champion == "3"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"champion": ...}, "the field champion is missing"),
        ({"novelty": 1}, "the field novelty is unknown"),
        ({"pairs": {"dice": {"sub-01": [0.1]}}}, "the field pairs.dice.sub-01.1 is missing"),
        ({"reason": 5}, "the field reason is invalid: Input should be a valid string"),
        ({"format_version": 2}, "its format version is 2, and this code reads version 1"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path, change, reason):
    COMPARED.write(tmp_path)
    file = tmp_path / "comparison.json"
    content = json.loads(file.read_text()) | change
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    with pytest.raises(StepError) as refusal:
        Comparison.read(tmp_path)
    assert f"{file}: {reason}" in str(refusal.value) and "The evaluate step writes this file" in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    (tmp_path / "split").write_bytes(content)
    with pytest.raises(StepError, match=r"split: (this is not JSON|the content is invalid)"):
        Split.read(tmp_path / "split")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StepError, match=r"model\.json cannot be read: No such file.*The train step writes this file"):
        TrainedModel.read(tmp_path / "model.json")


def test_a_model_from_before_format_versions_is_read(tmp_path):
    (tmp_path / "model.json").write_text('{"image_size": 32, "normalization": "slice", "base_channels": 4}')
    facts = TrainedModel.read(tmp_path)
    assert (facts.format_version, facts.inputs, facts.pixel_mm, facts.volume_interval) == (1, "dwi", 0.0, None)
