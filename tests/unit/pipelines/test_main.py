"""The command line, before any command."""

import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

from pipelines import __main__ as command_line
from pipelines import commands
from pipelines.image_tags import ROOT
from pipelines.target_name import ALL

IN_ANY_PLACE = {
    "check-data": ("--data", "folder"), "predict": ("--input", "a", "--output", "b"), "serve": (), "status": (),
    "promote": ("--model", "m", "--reason", "r"), "rollback": (), "champion": (), "lineage": (),
}  # fmt: skip
HERE_ALONE = ("up", "down", "demo-data")


@pytest.mark.parametrize("before", [None, 0o755], ids=["not there yet", "open to all"])
def test_what_is_kept_on_this_machine_is_its_owners_alone(before, tmp_path, monkeypatch, capsys):
    state = tmp_path / ".local"
    if before:
        state.mkdir(mode=before)
    monkeypatch.setattr(command_line, "STATE", state)
    monkeypatch.setattr("sys.argv", ["pipelines", "check-data", "--data", ""])
    assert command_line.main() == 1
    assert "DATA is missing" in capsys.readouterr().err
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_key_on_makes_command_line_is_refused_and_not_repeated():
    made = subprocess.run(
        ["make", "-n", "status", "PSEUDONYM_KEY=7c1f0e9a35b86d24e01b9f7a4c8d2653"],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert made.returncode != 0 and "PSEUDONYM_KEY on the command line is seen by every login" in made.stderr
    assert "7c1f0e9a" not in made.stdout + made.stderr


def with_state(folder: Path) -> subprocess.CompletedProcess:
    """`make check-data` without DATA, with `.local` named by a variable."""
    command = [sys.executable, "-m", "pipelines", "check-data", "--data="]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"STATE": str(folder)}, capture_output=True, text=True)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_a_variable_names_another_place_for_what_is_kept(there, tmp_path):
    folder = tmp_path / "disk of this machine" / "state"
    if there:
        folder.mkdir(parents=True, mode=0o755)
    assert "DATA is missing" in with_state(folder).stderr
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "kept").touch()
    assert "DATA is missing" in with_state(folder).stderr


def test_a_folder_with_other_things_is_not_taken_and_not_closed_to_others(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.txt").touch()
    said = with_state(tmp_path)
    assert said.returncode == 1
    assert f"STATE={tmp_path} has other content. Name a new or an empty folder" in said.stderr
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.fixture
def call(tmp_path, monkeypatch):
    """call("champion", "--target", "kind") -> the exit code; what a command would do it does not."""
    monkeypatch.setattr(command_line, "STATE", tmp_path / ".local")
    for name, value in list(vars(commands).items()):
        if isinstance(value, FunctionType) and not name.startswith("_"):
            monkeypatch.setattr(commands, name, lambda arguments: None)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["pipelines", *arguments])
        return command_line.main()

    return run


@pytest.mark.parametrize("place", ALL)
@pytest.mark.parametrize("command", IN_ANY_PLACE)
def test_every_command_about_a_registry_takes_each_place(call, command, place):
    assert call(command, *IN_ANY_PLACE[command], "--target", place) == 0


@pytest.mark.parametrize("command", [*IN_ANY_PLACE, *HERE_ALONE, "run", "experiments", "logs", "kind-up", "compile"])
def test_an_unknown_target_is_refused_by_every_command(call, command, capsys):
    assert call(command, *IN_ANY_PLACE.get(command, ()), "--target", "knid") == 1
    assert "unknown TARGET=knid. Targets: local" in capsys.readouterr().err


@pytest.mark.parametrize("place", sorted(set(ALL) - {"local"}))
@pytest.mark.parametrize("command", HERE_ALONE)
def test_what_is_done_on_this_machine_alone_refuses_a_cluster(call, command, place, capsys):
    assert call(command, "--target", place) == 1
    assert f"TARGET={place} does not work with this command" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "experiments"])
def test_what_runs_the_steps_takes_every_target(call, command):
    for place in ALL:
        assert call(command, "--target", place) == 0
