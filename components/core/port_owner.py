"""Find which program listens on a port of this machine, and send nothing to a program of another user.

    is_served_by(group, 5000)   while a server starts: does the listening socket belong to its process group?
    guard()                     afterwards: each new HTTP connection to a port in OWN_PORTS must reach a program of this
                                user or of root, and one to a port given to `own` must reach that process group;
                                otherwise nothing is sent on it

Linux shows the program in /proc, macOS through lsof, which shows only the user's own programs.
"""

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from urllib3.util import connection

from components.core.errors import StepError

HOST = "127.0.0.1"
OWN_PORTS = "OWN_PORTS"
"""Environment variable: the ports on HOST, separated by spaces, on which only this user's programs may answer."""
PROC = Path("/proc")
LISTEN = "0A"
UNKNOWN_USER = -1

_groups: dict[int, int] = {}
_guarded: list[Callable[..., socket.socket]] = []
"""The functions that `guard` made."""


def is_served_by(group: int, port: int) -> bool:
    """Return whether this process group listens on the port; False if no program does.

    Raises:
        StepError: another program listens there.
    """
    if not users(port):
        return False
    if not programs(port, group):
        if not users(port):  # the program has just ended
            return False
        raise StepError(
            f"port {port} on {HOST} is held by {holder(port)}, not by what was started here. Nothing was sent there"
        )
    return True


def refuse_strangers(port: int) -> None:
    """Refuse a port on which a program of another user than root listens.

    Raises:
        StepError: such a program listens there; the message names its user.
    """
    if users(port) - {os.getuid(), 0}:
        raise StepError(f"port {port} on {HOST} is held by {holder(port)}. Nothing was sent there. "
                        "End that program, or ask its owner to end it, then run again.")  # fmt: skip


def holder(port: int) -> str:
    """Return the program that listens on the port, or at least its user, as text."""
    names = sorted(_user_name(user) for user in users(port) - {UNKNOWN_USER})
    owner = f"user {', '.join(names)}" if names else "another user"
    if found := sorted(programs(port)):
        return f"process {found[0]} ({_program_name(found[0])}) of {owner}"
    return f"a program of {owner}"


def users(port: int) -> set[int]:
    """Return the ids of the users whose programs listen on HOST at this port; UNKNOWN_USER if the system hides them."""
    if not _has_proc():
        own = {os.getuid()} if _lsof(port) else set()
        return own or ({UNKNOWN_USER} if _accepts(port) else set())
    return set(_sockets(port).values())


def programs(port: int, group: int | None = None) -> set[int]:
    """Return the visible processes that listen on HOST at this port: those of a group, or all."""
    if not _has_proc():
        return {pid for pid in _lsof(port) if group in (None, _group_of(pid))}
    links = {f"socket:[{inode}]" for inode in _sockets(port)}
    pids = (int(folder.name) for folder in PROC.glob("[0-9]*"))
    return {pid for pid in pids if group in (None, _group_of(pid)) and links & _open_files(pid)}


def own(port: int, group: int) -> None:
    """Let only this process group answer this process on the port."""
    _groups[port] = group


def disown(port: int) -> None:
    """Let other process groups answer on the port again."""
    _groups.pop(port, None)


def guard() -> None:
    """Check each new connection of this process to a port of ours before anything is sent on it.

    boto3, MLflow and Kubeflow's client connect through urllib3. The check comes after the connection is made: it finds
    a program that took the port before, and a program that takes the port later does not get this connection.
    """
    connect = connection.create_connection
    if connect in _guarded:
        return

    @wraps(connect)
    def guarded(*arguments: Any, **options: Any) -> socket.socket:
        opened = connect(*arguments, **options)
        try:
            _check(opened)
        except BaseException:
            opened.close()
            raise
        return opened

    _guarded.append(guarded)
    connection.create_connection = guarded


def _check(opened: socket.socket) -> None:
    host, port, *_ = opened.getpeername()
    if host != HOST:
        return
    if port in _groups:
        answered = is_served_by(_groups[port], port)
    elif str(port) in os.environ.get(OWN_PORTS, "").split():
        refuse_strangers(port)
        answered = bool(users(port))
    else:
        return
    if not answered:
        raise ConnectionRefusedError(f"the program on port {port} has just ended")


def _sockets(port: int) -> dict[str, int]:
    """Return the inode and the user id of each socket that listens on HOST at this port."""
    here = socket.inet_aton(HOST)
    addresses = {_as_kernel_writes(here), _as_kernel_writes(bytes(10) + b"\xff\xff" + here)}
    found = {}
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for row in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = row.split()
                address, _, number = fields[1].partition(":")
                if fields[3] == LISTEN and address in addresses and int(number, 16) == port:
                    found[fields[9]] = int(fields[7])
    return found


def _open_files(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for file in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                found.add(str(file.readlink()))
    return found


def _as_kernel_writes(address: bytes) -> str:
    """Return an address as /proc/net/tcp shows it: words of 32 bits in this machine's order of bytes."""
    words = (address[start : start + 4] for start in range(0, len(address), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _has_proc() -> bool:
    return (PROC / "net" / "tcp").exists()


def _lsof(port: int) -> set[int]:
    """Return the processes that listen there, from lsof.

    Raises:
        StepError: lsof is not installed.
    """
    command = ["lsof", "-nP", f"-iTCP@{HOST}:{port}", "-sTCP:LISTEN", "-t"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise StepError(
            f"the program on port {port} is unknown, so nothing is sent there: this system has no /proc/net/tcp, and "
            "lsof is not on the PATH. Install lsof."
        ) from None
    return {int(line) for line in listed.split()}


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


def _group_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getpgid(pid)
    return None


def _user_name(user: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return str(user)


def _program_name(pid: int) -> str:
    command = ["ps", "-o", "comm=", "-p", str(pid)]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "ended"
    except FileNotFoundError:
        return "name unknown"
