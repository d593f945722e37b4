"""Servers that go on after the folder that they serve was removed, and `services.json` with it."""

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
DELETED = " (deleted)"
"""What Linux adds to the path of a removed folder."""


def serving(folder: Path, command: str) -> set[int]:
    """Return the process groups of this user that stand in `folder`, removed since, and whose command matches.

    A server is started in its folder. Others there, such as a person's shell, have another command.
    """
    places = _from_proc() if (PROC / "self" / "cwd").exists() else _from_lsof()
    there = [pid for pid, place in places.items() if place.removesuffix(DELETED) == str(folder.resolve())]
    removed = [pid for pid in there if places[pid].endswith(DELETED) or not folder.exists()]
    groups = set()
    for pid in removed:
        if re.search(command, _command(pid)):
            with suppress(ProcessLookupError):
                groups.add(os.getpgid(pid))
    return groups


def _from_proc() -> dict[int, str]:
    """The working folder of each process that this user may see."""
    places = {}
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid():
                places[int(folder.name)] = str((folder / "cwd").readlink())
    return places


def _from_lsof() -> dict[int, str]:
    command = ["lsof", "-a", "-u", str(os.getuid()), "-d", "cwd", "-Fpn"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    except FileNotFoundError:
        return {}
    return {int(pid): place for pid, place in re.findall(r"^p(\d+)\n(?:f.*\n)?n(.*)$", listed, re.MULTILINE)}


def _command(pid: int) -> str:
    return subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout
