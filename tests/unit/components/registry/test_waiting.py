"""How MLflow is asked for files, and what is said while it does not send them."""

import logging
import os
import subprocess
import sys
import time

import pytest

from components.registry import tracking
from components.registry.tracking import DIRECT, waiting_for


@pytest.mark.parametrize(("given", "found"), [({}, "false"), ({DIRECT: "true"}, "true")], ids=["nobody", "somebody"])
def test_files_come_through_mlflow_unless_somebody_says_that_s3_may_be_asked(given, found):
    clean = {name: value for name, value in os.environ.items() if name != DIRECT}
    code = f"import os, components.registry.tracking; print(os.environ['{DIRECT}'])"
    said = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == found


def test_a_long_wait_names_the_address_and_what_may_be_asked_besides(monkeypatch, caplog):
    monkeypatch.setattr(tracking, "SAID_EVERY_SECONDS", 0.02)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    for direct, besides in (("false", ""), ("true", f", which may send to its S3 ({DIRECT}=false: never)")):
        monkeypatch.setenv(DIRECT, direct)
        caplog.clear()
        with caplog.at_level(logging.WARNING), waiting_for("the files of models:/m/1"):
            deadline = time.monotonic() + 30
            while not caplog.messages and time.monotonic() < deadline:
                time.sleep(0.01)
        line = f"waiting 0 s for the files of models:/m/1, from MLflow at http://mlflow.example.org{besides}"
        assert caplog.messages[0] == line


def test_half_a_minute_is_what_a_word_is_waited_for_at_most():
    assert tracking.SAID_EVERY_SECONDS <= 60
    assert int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")) <= 60
