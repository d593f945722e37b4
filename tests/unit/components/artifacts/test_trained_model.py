"""The artifacts of train."""

import json

import pytest

from components.artifacts.artifact import InvalidArtifact
from components.artifacts.trained_model import HISTORY, read_history
from components.core.errors import StepError
from tests.support import measured


def test_the_history_is_read_epoch_by_epoch(tmp_path):
    (tmp_path / HISTORY).write_text(json.dumps(measured.HISTORY))
    assert read_history(tmp_path) == measured.HISTORY


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[{", "this is not JSON"), ('[{"epoch": "first"}]', r"the field 0\.epoch is invalid"), ("{}", "invalid")],
)
def test_an_invalid_history_is_named(tmp_path, text, reason):
    (tmp_path / HISTORY).write_text(text)
    with pytest.raises(InvalidArtifact, match=rf"history\.json: .*{reason}"):
        read_history(tmp_path)


def test_a_missing_history_is_named(tmp_path):
    with pytest.raises(StepError, match=r"history\.json cannot be read"):
        read_history(tmp_path)
