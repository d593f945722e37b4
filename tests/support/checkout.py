"""A copy of this checkout with services of its own: what a newcomer has after `git clone`, without their wait."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = (
    "components", "pipelines", "images", "tests/support", "requirements.txt", "requirements.lock", "Makefile",
    ".dockerignore",
)  # fmt: skip
SERVICE_VARIABLES = ("AWS_", "S3_", "MLFLOW_")
LAST_LINES = 5


class CommandFailed(subprocess.CalledProcessError):
    """A command of the copy failed. The message ends with the last lines that it printed."""

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.output.splitlines()[-LAST_LINES:]])


class Checkout:
    """`with Checkout(folder) as checkout:` the copy lives in `folder`; at the end its services are stopped.

    On `one_cpu` a tiny network trains as fast as on two, and far faster where other programs share them.
    """

    def __init__(self, folder: Path, one_cpu: bool = False):
        self.folder, self.state, self.one_cpu = folder, folder / ".local", one_cpu
        folder.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / name)
        # Kubernetes' client imports it, for a second. It comes with the development packages: a newcomer has none.
        (folder / "rfc3987_syntax.py").write_text("raise ImportError\n")
        ours = {k: v for k, v in os.environ.items() if not k.startswith(SERVICE_VARIABLES) and k != "STATE"}
        self.environment = ours
        self.environment |= {"PYTHONPATH": str(folder), "S3_PORT": _free_port(), "MLFLOW_PORT": _free_port()}
        self._services: dict[str, str] = {}

    def __enter__(self) -> "Checkout":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.python("down")

    def start(self, *arguments: str, module: str = "pipelines") -> subprocess.Popen:
        """Start `python -m pipelines ARGUMENTS` in the copy, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=self._pin if self.one_cpu and hasattr(os, "sched_setaffinity") else None,
        )  # fmt: skip

    @staticmethod
    def _pin() -> None:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[os.getpid() % len(allowed)]})

    def python(self, *arguments: str, check: bool = True) -> str:
        """The same, run to its end; what it printed.

        Raises:
            CommandFailed: it failed, unless `check` is off.
        """
        process = self.start(*arguments)
        out, _ = process.communicate()
        if check and process.returncode:
            print(out)
            raise CommandFailed(process.returncode, arguments, out)
        return out

    def last_run(self) -> dict:
        return json.loads((self.state / "last-run.json").read_text())

    def services(self) -> dict[str, str]:
        """The environment of the running services: their ports and logins stay while the copy is there."""
        if not self._services:
            self._services = self._ask_for_services()
        return self._services

    def _ask_for_services(self) -> dict[str, str]:
        code = "import json, sys, pathlib; from pipelines.local import services; " \
               "print(json.dumps(services.up(pathlib.Path(sys.argv[1]))))"  # fmt: skip
        out = subprocess.run(
            [sys.executable, "-c", code, str(self.state)],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(out.stdout.splitlines()[-1])


def _free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])
