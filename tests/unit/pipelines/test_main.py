"""The command line, before any command."""

import pytest

from pipelines import __main__ as command_line


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
