"""How a step is started on this machine, and who may run."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.core.step import StepError
from pipelines.local.run import alone, is_running, with_python

GOLDEN = Path(__file__).parents[3] / "golden" / "pipeline.yaml"
EXECUTORS = yaml.safe_load(next(iter(GOLDEN.read_text().split("\n---\n"))))["deploymentSpec"]["executors"]


@pytest.mark.parametrize("folder", ["plain", "my python3 folder", 'it\'s $HOME `x` "#1" 100% [a]? \\'])
@pytest.mark.parametrize("step", EXECUTORS)
def test_only_the_python_of_a_steps_script_is_named_whatever_the_paths_hold(step, folder, tmp_path):
    python = tmp_path / folder / "python"
    python.parent.mkdir()
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    python.chmod(0o755)
    arguments = ["--executor_input", '{"data_uri": "/home/python3_scans"}']
    command = [*EXECUTORS[step]["container"]["command"], *arguments]
    out = subprocess.run(with_python(command, str(python)), capture_output=True, text=True, check=True).stdout
    said = json.loads(out)
    assert said[:2] == ["-m", "kfp.dsl.executor_main"]
    assert said[-2:] == arguments
    assert with_python(command, str(python))[3:] == command[3:]


def test_a_second_run_is_told_to_wait(tmp_path):
    with alone(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(StepError, match=rf"process {os.getpid()}\). Wait until it ends"), alone(tmp_path):
            pass
    assert not is_running(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_with_a_way_out(code, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    (tmp_path / "run.lock").touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for ask in (lambda: alone(tmp_path).__enter__(), lambda: is_running(tmp_path)):
        with pytest.raises(StepError, match=rf"{tmp_path} lies on a file system without locks .*STATE="):
            ask()
