"""How a step is started on this machine, and where its temporary files are."""

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from pipelines.local import kfp_local as local_run
from pipelines.local.kfp_local import with_python

GOLDEN = Path(__file__).parents[3] / "golden" / "pipeline.yaml"
EXECUTORS = yaml.safe_load(next(iter(GOLDEN.read_text().split("\n---\n"))))["deploymentSpec"]["executors"]

MEETS = """
import socket, tempfile
print("}")  # what follows the header of kfp's executor
folder = tempfile.mkdtemp()
print("temporary folder", folder)
with socket.socket(socket.AF_UNIX) as door:
    door.bind(f"{folder}/listener-12345678")  # as multiprocessing makes them
open(f"{folder}/kept", "w").close()
"""


@pytest.fixture
def step_of(monkeypatch):
    """step_of(folder): what a step of a run in that folder printed, and the files that it left there while it ran."""

    def start(folder: Path) -> tuple[str, list[Path]]:
        run, left = local_run.LocalRun("run-1", folder, {}, io.StringIO()), []

        def pipeline(**_) -> None:
            assert run._run_process([sys.executable, "-c", MEETS]) == 0, run.error
            left.extend(folder.rglob("kept"))

        monkeypatch.setattr(local_run, "compile_to", lambda *_, **__: None)
        monkeypatch.setattr(local_run.local, "init", lambda **_: None)
        monkeypatch.setattr(local_run.components, "load_component_from_file", lambda _: pipeline)
        run.out = io.StringIO()
        run.execute({}, folder, folder)
        return run.out.getvalue(), left

    return start


@pytest.fixture
def deep(tmp_path) -> Path:
    folder = tmp_path / "srv" / ("d" * 60) / ".local" / "runs" / "20260101-000000-baseline-abcd"
    folder.mkdir(parents=True)
    return folder


def temporary_folder(out: str) -> Path:
    return Path(next(line for line in out.splitlines() if "temporary folder" in line).split()[-1])


def test_a_step_can_make_sockets_however_deep_the_checkout_lies_and_its_files_are_in_the_runs_folder(deep, step_of):
    _, left = step_of(deep)
    assert [path.parent.parent for path in left] == [deep / "tmp"]


def test_the_link_to_it_goes_with_the_run(deep, step_of):
    out, _ = step_of(deep)
    link = temporary_folder(out).parent
    assert deep not in link.parents
    assert not link.is_symlink() and not link.parent.exists()


def test_where_no_link_can_be_made_the_runs_own_folder_serves(tmp_path, step_of, monkeypatch):
    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refused)
    monkeypatch.setitem(globals(), "MEETS", MEETS.partition("with ")[0])
    out, _ = step_of(tmp_path)
    assert temporary_folder(out).parent == tmp_path / "tmp"


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
