"""Containers that share a loopback network from which only chosen services of this machine can be reached.

A first, idle container holds the network and the process table that the other containers share. It opens the
services' ports on its own 127.0.0.1 and sends the open ports through a Unix socket to this process, which forwards
each connection to the service. When this process ends, the socket closes, the idle container ends, and the kernel ends
every process of its table: no container outlives the run.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from components.core.errors import StepError
from pipelines.ports import HOST

START_SECONDS = 60
UID = 10001
LOCKED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")
IDLE = """
import socket, sys
ports = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
with socket.socket(socket.AF_UNIX) as run:
    run.connect("/run.sock")
    socket.send_fds(run, [b"ports"], [port.fileno() for port in ports])
    run.recv(1)
"""


def user() -> str:
    """Return the uid:gid of the steps: those of this user, and never root's."""
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{UID}:{UID}"


class Sandbox:
    """`with Sandbox(name, image, [9000, 5000]) as sandbox:` start containers with `sandbox.options` in it.

    Raises:
        StepError: Docker did not start the idle container.
    """

    def __init__(self, name: str, image: str, ports: list[int]):
        self.name, self.image, self.ports = f"{name}-{secrets.token_hex(3)}", image, ports
        self.options = [
            "--rm", "--network", f"container:{self.name}", "--pid", f"container:{self.name}", "--user", user(), *LOCKED
        ]  # fmt: skip

    def __enter__(self) -> "Sandbox":
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as door:
            path = Path(folder, "run.sock")
            door.bind(str(path))
            path.chmod(0o666)  # only this user can enter the folder around it
            door.listen()
            door.settimeout(START_SECONDS)
            command = ["docker", "run", "--detach", "--rm", "--name", self.name, "--network", "none"]
            command += ["--user", user(), *LOCKED, "--volume", f"{path}:/run.sock"]
            command += [self.image, "python3", "-c", IDLE, *map(str, self.ports)]
            started = subprocess.run(command, capture_output=True, text=True)
            if started.returncode:
                raise StepError(f"Docker could not start a container of {self.image}: {started.stderr.strip()}")
            try:
                self.held, _ = door.accept()
                _, opened, _, _ = socket.recv_fds(self.held, 16, len(self.ports))
            except OSError as error:
                self._remove()
                raise StepError(
                    f"the container {self.name} does not answer ({error}). Docker must run on this machine itself, "
                    "not in a virtual machine: the steps reach the services through a Unix socket."
                ) from error
        for number, port in zip(opened, self.ports, strict=True):
            threading.Thread(target=_serve, args=(socket.socket(fileno=number), port), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.held.close()
        self._remove()

    def _remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", self.name], capture_output=True)


def _serve(opened: socket.socket, port: int) -> None:
    while True:
        inside, _ = opened.accept()
        threading.Thread(target=_join, args=(inside, port), daemon=True).start()


def _join(inside: socket.socket, port: int) -> None:
    with inside, contextlib.suppress(OSError), socket.create_connection((HOST, port)) as service:
        answers = threading.Thread(target=_copy, args=(service, inside), daemon=True)
        answers.start()
        _copy(inside, service)
        answers.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
