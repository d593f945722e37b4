"""Forward a service of a cluster to a port of this machine."""

import contextlib
import socket
import subprocess
import tempfile
import threading
import time

from components.core import port_owner
from components.core.errors import StepError
from pipelines.cluster.programs import kubectl
from pipelines.ports import HOST

START_SECONDS, RESTART_SECONDS = 20, 1


class PortForward:
    """`kubectl port-forward` as a child process: restarted when it ends, stopped at the end of the `with` block."""

    def __init__(self, context: str, namespace: str, service: str, port: int, local: int):
        self.name, self.local = f"svc/{service} in namespace {namespace}", local
        self.url = f"http://{HOST}:{local}"
        arguments = ("-n", namespace, "port-forward", "--address", HOST, f"svc/{service}", f"{local}:{port}")
        self.command = kubectl(context, *arguments)
        self.closing = threading.Event()

    def __enter__(self) -> "PortForward":
        self.errors = tempfile.TemporaryFile()
        port_owner.guard()
        self._start()
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        threading.Thread(target=self._keep_alive, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.process.terminate()
        self.process.wait()
        port_owner.disown(self.local)

    def _start(self) -> None:
        """Start kubectl in a session of its own: Ctrl-C then reaches this process alone."""
        try:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors,
                start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise StepError(
                f"kubectl is missing, and {self.name} is reached through it. "
                "Install it (https://kubernetes.io/docs/tasks/tools/), or set KFP_HOST and MLFLOW_TRACKING_URI."
            ) from None
        port_owner.own(self.local, self.process.pid)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.errors.seek(0)
                reason = self.errors.read().decode(errors="replace").strip() or f"no answer in {START_SECONDS} s"
                raise StepError(f"{self.name} cannot be reached: {reason}. Tried: {' '.join(self.command)}")
            time.sleep(0.05)

    def _listens(self) -> bool:
        try:
            return port_owner.is_served_by(self.process.pid, self.local)
        except StepError as error:
            raise StepError(f"{self.name} cannot be reached: {error}. End that program, then run again.") from error

    def _keep_alive(self) -> None:
        while True:
            self.process.wait()
            if self.closing.wait(RESTART_SECONDS):
                return
            self._start()
            if self.closing.is_set():  # closed after the wait
                self.process.terminate()


def free_port(wanted: int = 0) -> int:
    """Return the port `wanted` if it is free, else any free one."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)) as server:
            return server.getsockname()[1]
    raise StepError(f"all ports on {HOST} are taken.")
