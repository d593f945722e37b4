"""One run at a time in a state folder."""

import errno
import fcntl
import os

import pytest

from components.core.errors import StepError
from pipelines.local.run_lock import is_running, only_run


def test_a_second_run_is_refused(tmp_path):
    with only_run(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(StepError, match=rf"process {os.getpid()}\). Wait until it ends"), only_run(tmp_path):
            pass
    assert not is_running(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_with_a_way_out(code, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    (tmp_path / "run.lock").touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for ask in (lambda: only_run(tmp_path).__enter__(), lambda: is_running(tmp_path)):
        with pytest.raises(StepError, match=rf"{tmp_path} lies on a file system without locks .*STATE="):
            ask()
