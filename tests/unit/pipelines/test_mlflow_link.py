"""The link that logs a browser in: on a terminal alone, and of our own MLflow alone."""

import io
from types import SimpleNamespace

import pytest
import requests

from pipelines import mlflow_link
from pipelines.mlflow_link import show

URI = "http://127.0.0.1:5000"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def asked(monkeypatch) -> list:
    """Requests for a code, each of which is answered "1.a.b"."""
    requested = []

    def post(url, headers, timeout):
        requested.append((url, headers))
        return SimpleNamespace(status_code=200, text="1.a.b")

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the token")
    monkeypatch.setattr(mlflow_link.requests, "post", post)
    return requested


def test_a_terminal_gets_the_link(asked, monkeypatch):
    monkeypatch.setattr(mlflow_link.sys, "stdout", Terminal())
    assert show(URI + "/", "kind")
    said = mlflow_link.sys.stdout.getvalue()
    assert f" {URI}/login#1.a.b\n" in said and "make mlflow TARGET=kind" in said
    assert asked == [(f"{URI}/login/code", {"Authorization": "Bearer the token"})]


def test_a_file_or_a_pipe_gets_the_command(asked, capsys):
    assert show(URI)
    said = capsys.readouterr().out
    assert "make mlflow, in a terminal" in said and "1.a.b" not in said and "#" not in said


@pytest.mark.parametrize("status", [401, 403, 404, 405, 500])
def test_an_mlflow_that_is_not_ours_has_no_link(status, monkeypatch, capsys):
    monkeypatch.setattr(mlflow_link.requests, "post", lambda *_, **__: SimpleNamespace(status_code=status, text="x"))
    assert not show(URI) and capsys.readouterr().out == ""


def test_one_that_does_not_answer_has_none(monkeypatch, capsys):
    def post(*_, **__):
        raise requests.ConnectionError("gone")

    monkeypatch.setattr(mlflow_link.requests, "post", post)
    assert not show(URI) and capsys.readouterr().out == ""
