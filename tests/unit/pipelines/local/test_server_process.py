"""Process groups of servers: which live, which are ours, and which stay in a folder that was removed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.local import server_process
from pipelines.local.server_process import ServerProcess, group_members, groups_without_folder


@pytest.fixture
def server(tmp_path):
    """A folder, and the process group that was started in it."""
    folder = tmp_path / "a folder [1]" / "mlflow"
    folder.mkdir(parents=True)
    with subprocess.Popen(["sh", "-c", "sleep 61; : server"], cwd=folder, start_new_session=True) as process:
        yield folder, process.pid
        os.killpg(process.pid, signal.SIGKILL)


def test_a_server_is_found_once_its_folder_was_removed(server):
    folder, group = server
    assert groups_without_folder(folder, ": server") == set()
    shutil.rmtree(folder)
    assert groups_without_folder(folder, ": server") == {group}
    assert groups_without_folder(folder, "rclone") == set()
    assert groups_without_folder(folder.with_name("s3"), ": server") == set()


def test_it_is_found_where_a_new_folder_took_the_place(server):
    folder, group = server
    shutil.rmtree(folder.parent)
    folder.mkdir(parents=True)
    assert groups_without_folder(folder, ": server") == {group}


def test_the_start_time_of_a_process_is_that_of_the_kernel(server):
    _, group = server
    members = group_members(group)
    assert str(group) in members
    for pid, start in members.items():
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        assert abs(start - ticks) <= server_process.TOLERANCE


def test_a_process_is_recognised_though_the_clock_was_set(server, monkeypatch):
    _, group = server
    process = ServerProcess(group, 9000, "", group_members(group))
    for seconds in (3600.0, -86400.0):
        boot, created = psutil.boot_time(), psutil.Process.create_time
        with monkeypatch.context() as patch:
            patch.setattr(psutil, "boot_time", lambda later=boot + seconds: later)
            patch.setattr(psutil.Process, "create_time", lambda p, d=seconds, c=created: c(p) + d)
            assert process.is_alive()


def test_another_program_with_the_same_pid_is_spared(server):
    _, group = server
    start = group_members(group)[str(group)]
    other = ServerProcess(group, 9000, "", {str(group): start - 2 * server_process.TOLERANCE})
    assert not other.is_alive()
    other.stop()
    assert group_members(group)


def test_a_zombie_is_not_alive():
    process = subprocess.Popen(["true"], start_new_session=True)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert group_members(process.pid) == {}
    process.wait()


def test_what_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(server_process, "STOP_SECONDS", 0.3)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        ServerProcess(process.pid, 9000, "", group_members(process.pid)).stop()
        assert process.wait(timeout=1) == -signal.SIGKILL
