"""The end of a training: what MLflow does not have yet is logged by evaluate, or by this step once more."""

import logging
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from components.core.errors import StepError
from components.train import train
from tests.support.artifacts import make_split
from tests.support.folds import split_into_folds


@pytest.fixture
def ended(monkeypatch):
    """ended(split): the end of a training with this split while MLflow does not answer."""

    def fail(*_):
        raise StepError("MLflow does not answer")

    def run(split) -> None:
        monkeypatch.setattr(train, "record_training", fail)
        train._record(mock.Mock(), SimpleNamespace(split=split, paths=SimpleNamespace(model=Path("model"))), 0.0)

    return run


def test_the_training_of_a_single_split_is_complete_without_mlflow(ended, caplog):
    with caplog.at_level(logging.WARNING):
        ended(make_split({"train": ["A"], "val": ["B"], "test": ["C"]}))
    assert "evaluate logs what MLflow does not have yet. MLflow does not answer" in caplog.text


def test_the_training_of_a_fold_is_tried_again_as_no_later_step_logs_it(ended):
    with pytest.raises(StepError, match=r"its checkpoint is kept: run again\. MLflow does not answer"):
        ended(split_into_folds().of_fold(1))
