"""The command line, before any command."""

import subprocess

import pytest

from pipelines import __main__ as command_line
from pipelines.sources import ROOT


@pytest.mark.parametrize("before", [None, 0o755], ids=["not there yet", "open to all"])
def test_what_is_kept_on_this_machine_is_its_owners_alone(before, tmp_path, monkeypatch, capsys):
    state = tmp_path / ".local"
    if before:
        state.mkdir(mode=before)
    monkeypatch.setattr(command_line, "STATE", state)
    monkeypatch.setattr("sys.argv", ["pipelines", "check-data", "--data", ""])
    assert command_line.main() == 1
    assert "Which scans?" in capsys.readouterr().err
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_key_on_makes_command_line_is_refused_and_not_repeated():
    made = subprocess.run(
        ["make", "-n", "status", "PSEUDONYM_KEY=7c1f0e9a35b86d24e01b9f7a4c8d2653"],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert made.returncode != 0 and "PSEUDONYM_KEY on the command line is seen by every login" in made.stderr
    assert "7c1f0e9a" not in made.stdout + made.stderr
