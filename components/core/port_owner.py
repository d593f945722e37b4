"""Which program listens on a port of this machine: nothing is sent to one that is not ours.

    is_served_by(group, 5000)   as a server starts: does the listening socket belong to its process group?
    guard()                     then: each new HTTP connection to a port in OWN_PORTS reaches a program of this user (or
                                root's), to one that is in `own` the process group there; else nothing is sent on it

Linux tells it in /proc, macOS through lsof, which shows a person's own programs alone.
"""

import os
import pwd
import socket
import subprocess
import sys
from contextlib import suppress
from functools import wraps
from pathlib import Path

from urllib3.util import connection

from components.core.step import StepError

HOST = "127.0.0.1"
OWN_PORTS = "OWN_PORTS"
"""Environment variable: the ports on HOST, separated by spaces, that only this user's own programs may answer."""
PROC = Path("/proc")
LISTEN = "0A"
UNKNOWN_USER = -1

_groups: dict[int, int] = {}


def is_served_by(group: int, port: int) -> bool:
    """Return whether this process group listens on the port; False where no program does.

    Raises:
        StepError: another program does.
    """
    if not users(port):
        return False
    if not programs(port, group):
        if not users(port):  # it has just ended
            return False
        raise StepError(
            f"port {port} on {HOST} is held by {holder(port)}, not by what was started here. Nothing was sent there"
        )
    return True


def refuse_strangers(port: int) -> None:
    """Refuse a port on which a program of another user listens, root's apart.

    Raises:
        StepError: with the name of that user.
    """
    if users(port) - {os.getuid(), 0}:
        raise StepError(f"port {port} on {HOST} is held by {holder(port)}. Nothing was sent there. "
                        "End that program, or have its owner end it, then run again.")  # fmt: skip


def holder(port: int) -> str:
    """Return in words which program, or whose, listens on the port."""
    names = sorted(_user_name(user) for user in users(port) - {UNKNOWN_USER})
    owner = f"user {', '.join(names)}" if names else "another user"
    if found := sorted(programs(port)):
        return f"process {found[0]} ({_program_name(found[0])}) of {owner}"
    return f"a program of {owner}"


def users(port: int) -> set[int]:
    """Return the ids of the users whose programs listen on HOST at this port; UNKNOWN_USER where that is hidden."""
    if not _has_proc():
        own = {os.getuid()} if _lsof(port) else set()
        return own or ({UNKNOWN_USER} if _accepts(port) else set())
    return set(_sockets(port).values())


def programs(port: int, group: int | None = None) -> set[int]:
    """Return the processes that listen on HOST at this port, of a group or of all, as far as this user may see them."""
    if not _has_proc():
        return {pid for pid in _lsof(port) if group in (None, _group_of(pid))}
    links = {f"socket:[{inode}]" for inode in _sockets(port)}
    pids = (int(folder.name) for folder in PROC.glob("[0-9]*"))
    return {pid for pid in pids if group in (None, _group_of(pid)) and links & _open_files(pid)}


def own(port: int, group: int) -> None:
    """From here on only this process group may answer this process on the port."""
    _groups[port] = group


def disown(port: int) -> None:
    """End what `own` began."""
    _groups.pop(port, None)


def guard() -> None:
    """Check each new connection of this process to a port of ours before anything is sent on it.

    It is the connection of urllib3, through which boto3, MLflow and Kubeflow's client go. The check comes after the
    connection is made: a program that took the port before is seen, and one that takes it later does not get this one.
    """
    connect = connection.create_connection
    if hasattr(connect, "unguarded"):
        return

    @wraps(connect)
    def guarded(*arguments, **options) -> socket.socket:
        opened = connect(*arguments, **options)
        try:
            _check(opened)
        except BaseException:
            opened.close()
            raise
        return opened

    guarded.unguarded = connect
    connection.create_connection = guarded


def _check(opened: socket.socket) -> None:
    host, port, *_ = opened.getpeername()
    if host != HOST:
        return
    if port in _groups:
        there = is_served_by(_groups[port], port)
    elif str(port) in os.environ.get(OWN_PORTS, "").split():
        refuse_strangers(port)
        there = bool(users(port))
    else:
        return
    if not there:
        raise ConnectionRefusedError(f"the program on port {port} has just ended")


def _sockets(port: int) -> dict[str, int]:
    """Of each socket that listens on HOST at this port: its inode, and the id of its user."""
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
        StepError: there is no lsof.
    """
    command = ["lsof", "-nP", f"-iTCP@{HOST}:{port}", "-sTCP:LISTEN", "-t"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise StepError(
            f"which program answers on port {port} cannot be found out, so nothing is sent there: this system has no "
            "/proc/net/tcp, and lsof is not on the PATH. Install lsof."
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
