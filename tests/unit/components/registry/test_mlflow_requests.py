"""Requests to MLflow: where files come from, and the log during a wait."""

import logging
import os
import subprocess
import sys
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED

from components.registry import mlflow_requests
from components.registry.mlflow_requests import DIRECT, find_or_create, log_while_waiting


@pytest.mark.parametrize(("given", "found"), [({}, "false"), ({DIRECT: "true"}, "true")], ids=["nobody", "somebody"])
def test_files_come_through_mlflow_by_default(given, found):
    clean = {name: value for name, value in os.environ.items() if name != DIRECT}
    code = f"import os, components.registry.mlflow_requests; print(os.environ['{DIRECT}'])"
    text = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
    assert text.stdout.strip() == found


def test_a_long_wait_logs_the_address_and_a_possible_redirect(monkeypatch, caplog):
    monkeypatch.setattr(mlflow_requests, "LOG_EVERY_SECONDS", 0.02)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    for direct, besides in (
        ("false", ""),
        ("true", f", which may redirect to its S3 (set {DIRECT}=false to prevent this)"),
    ):
        monkeypatch.setenv(DIRECT, direct)
        caplog.clear()
        with caplog.at_level(logging.WARNING), log_while_waiting("the files of models:/m/1"):
            deadline = time.monotonic() + 30
            while not caplog.messages and time.monotonic() < deadline:
                time.sleep(0.01)
        line = f"waiting 0 s for the files of models:/m/1, from MLflow at http://mlflow.example.org{besides}"
        assert caplog.messages[0] == line


def test_log_lines_come_at_least_every_minute():
    assert mlflow_requests.LOG_EVERY_SECONDS <= 60
    assert mlflow_requests.REQUEST_SECONDS <= 60


@pytest.fixture
def store():
    """store(error) makes what is asked for, and then fails: as a server does whose answer is lost."""
    made: list[str] = []

    def create(error: MlflowException) -> str:
        made.append("thing")
        raise error

    create.made = made
    return create


def test_what_was_made_although_the_answer_was_lost_is_found_even_without_time_for_another_try(store, monkeypatch):
    monkeypatch.setattr(mlflow_requests, "CREATE_SECONDS", 0.0)
    lost = MlflowException("timed out", INTERNAL_ERROR)
    assert find_or_create(lambda: next(iter(store.made), None), lambda: store(lost)) == "thing"
    assert store.made == ["thing"]


def test_a_refusal_is_not_tried_again(store):
    refusal = MlflowException("not allowed", PERMISSION_DENIED)
    with pytest.raises(MlflowException, match="not allowed"):
        find_or_create(lambda: None, lambda: store(refusal))
    assert store.made == ["thing"]


def test_a_try_may_take_as_long_as_a_request():
    assert mlflow_requests.REQUEST_SECONDS < mlflow_requests.CREATE_SECONDS
