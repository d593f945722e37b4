"""Which processes stand in a folder that was removed; through /proc, and through lsof where that is missing."""

import os
import shutil
import signal
import subprocess

import pytest

from pipelines.local import leftovers


@pytest.fixture(params=["proc", "lsof"])
def place(request, monkeypatch, tmp_path):
    """A folder that a process group stands in: the folder, and the group."""
    if request.param == "lsof":
        if not shutil.which("lsof"):
            pytest.skip("needs lsof")
        monkeypatch.setattr(leftovers, "PROC", tmp_path / "none")
    folder = tmp_path / "a folder [1]" / "mlflow"
    folder.mkdir(parents=True)
    with subprocess.Popen(["sh", "-c", "sleep 61; : server"], cwd=folder, start_new_session=True) as process:
        yield folder, process.pid
        os.killpg(process.pid, signal.SIGKILL)


def test_a_server_is_found_once_its_folder_was_removed(place):
    folder, group = place
    assert leftovers.serving(folder, ": server") == set()
    shutil.rmtree(folder)
    assert leftovers.serving(folder, ": server") == {group}
    assert leftovers.serving(folder, "rclone") == set()
    assert leftovers.serving(folder.with_name("s3"), ": server") == set()


def test_it_is_found_where_a_new_folder_took_the_place(place):
    folder, group = place
    shutil.rmtree(folder.parent)
    folder.mkdir(parents=True)
    assert leftovers.serving(folder, ": server") == {group}


def test_without_lsof_none_is_known(place, monkeypatch, tmp_path):
    monkeypatch.setattr(leftovers, "PROC", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert leftovers.serving(*place[:1], "server") == set()
