"""Start, recognise and stop the processes of a server that outlives the command that started it."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.ports import HOST

STOP_SECONDS = 10
TICKS = 100
"""Linux counts the start time of a process in hundredths of a second after boot."""
TOLERANCE = 2 * TICKS
"""The time of boot is read in whole seconds and follows the clock."""


@dataclass(frozen=True)
class ServerProcess:
    """A server that was started here, as `services.json` records it."""

    pid: int
    port: int
    settings: str  # digest of its command and environment
    family: Mapping[str, int]  # the members of its process group when last seen, as `group_members` returns them
    state: str = ""  # identity of the folder that it serves: a copy of `services.json` owns no server

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def is_alive(self) -> bool:
        """Return whether it still runs, and no other program has its pid."""
        return str(self.pid) in self._living()

    def stop(self) -> None:
        """End the process group, if a member is still one of ours."""
        if self._living():
            stop_group(self.pid)

    def _living(self) -> set[str]:
        """Return the recorded members that still run: another program with the same pid started at another time."""
        now = group_members(self.pid)
        return {pid for pid, start in self.family.items() if pid in now and abs(now[pid] - int(start)) <= TOLERANCE}


def group_members(leader: int) -> dict[str, int]:
    """Return the live processes of a process group: pid to start time, in hundredths of a second after boot."""
    members = {}
    for pid in psutil.pids():
        with suppress(psutil.Error, OSError):
            if os.getpgid(pid) != leader:
                continue
            process = psutil.Process(pid)
            if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                members[str(pid)] = round((process.create_time() - psutil.boot_time()) * TICKS)
    return members


def stop_group(leader: int) -> None:
    """End a process group: with SIGTERM, and with SIGKILL what still runs after STOP_SECONDS."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        with suppress(ProcessLookupError):
            os.killpg(leader, number)
        while group_members(leader) and time.monotonic() < deadline:
            time.sleep(0.05)


def start(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> int:
    """Start a process group in `folder` that outlives this process, append its output to `log`; return its pid."""
    folder.mkdir(mode=0o700, exist_ok=True)
    log.touch(mode=0o600)
    with log.open("a") as output:
        print(f"=== {time.ctime()}: {' '.join(command)}", file=output, flush=True)
        return subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, umask=0o077,
        ).pid  # fmt: skip


def groups_without_folder(folder: Path, command: str) -> set[int]:
    """Return the process groups of this user in `folder`, which was removed since, whose command line matches.

    A server is started in its folder. Other programs there, such as a person's shell, have another command line.
    """
    groups = set()
    for process in _processes_in(folder):
        with suppress(psutil.Error, OSError):
            if _is_removed(process, folder) and re.search(command, " ".join(process.cmdline())):
                groups.add(os.getpgid(process.pid))
    return groups


def _processes_in(folder: Path) -> Iterator[psutil.Process]:
    """Yield the processes of this user that have, or had, `folder` as their working folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid() and process.cwd() == str(folder.resolve()):
                yield process


def _is_removed(process: psutil.Process, folder: Path) -> bool:
    """Return whether the process's working folder no longer exists; another one may have its path now."""
    try:
        return not folder.samefile(f"/proc/{process.pid}/cwd")
    except OSError:  # nothing has its path, or the system has no /proc
        return not folder.exists()
