"""The artifacts of evaluate: what register reads is what evaluate wrote, or an error names file and field."""

import json

import pytest

from components.artifacts.artifact import InvalidArtifact
from components.artifacts.evaluation import Comparison, OverlayCases, ScanDigests, TestMetrics
from tests.support import measured


@pytest.fixture
def evaluation(tmp_path):
    return measured.write_evaluation(tmp_path / "evaluation", champion="3", model="m", reason="")


@pytest.mark.parametrize("artifact", [TestMetrics, Comparison, OverlayCases, ScanDigests])
def test_an_artifact_is_the_same_after_writing_and_reading(evaluation, artifact, tmp_path):
    content = artifact.read(evaluation)
    content.write(tmp_path / artifact.FILE)
    assert artifact.read(tmp_path / artifact.FILE) == content
    assert json.loads((tmp_path / artifact.FILE).read_text())["format_version"] == 1


def test_counts_stay_whole_numbers(evaluation, tmp_path):
    """They become tags of a version: "12", not "12.0"."""
    summary = TestMetrics.read(evaluation).summary
    assert (str(summary["test_patients"]), str(summary["test_better_than_rule"])) == ("12", "1.0")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"threshold": None}, "threshold"),
        ({"summary": {"test_dice_mean": float("nan")}}, r"summary\.test_dice_mean"),
        ({"review": measured.FOUND["review"] | {"scans": 0}}, r"review\.scans"),
        ({"cases": [measured.case(1) | {"lesions": -1}]}, r"cases\.0\.lesions"),
        ({"cases": [measured.case(1) | {"truth_ml": float("inf")}]}, r"cases\.0\.truth_ml"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_field_is_named_with_its_file(tmp_path, change, field):
    folder = measured.write_evaluation(tmp_path / "evaluation", measured.metrics(**change))
    with pytest.raises(InvalidArtifact, match=rf"test_metrics\.json: the field {field}.* is invalid") as error:
        TestMetrics.read(folder)
    assert "run that step again" in str(error.value)
