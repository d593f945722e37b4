"""What a run on this machine does about those before it."""

import json
from pathlib import Path

import pytest

from pipelines.atomic_write import identity
from pipelines.local import run_locally


@pytest.mark.parametrize(("made_in", "told"), [("here", True), ("the original", False), ("an older version", True)])
def test_a_killed_run_is_closed_but_in_a_copy_mlflow_is_not_told_that_the_originals_was(
    made_in, told, tmp_path: Path, monkeypatch
):
    summary = {"run_id": "1", "status": "running", "target": "local"}
    if made_in != "an older version":
        summary["state"] = identity(tmp_path) if made_in == "here" else "1:2"
    path = tmp_path / "runs" / "1" / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(summary))
    closed = []
    monkeypatch.setattr(run_locally, "_close_tracking", lambda *run: closed.append(run) or True)
    run_locally._close_killed_runs(tmp_path)
    assert json.loads(path.read_text())["status"] == "killed"
    assert closed == ([("1", "KILLED")] if told else [])
