"""A server that is started here with its data in the state folder, unless the user has one."""

import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.request
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from components.core import port_owner
from components.core.errors import StepError
from components.core.loopback import around_proxy, is_here
from components.core.step import without_logins
from pipelines.atomic_write import identity, read_json, write_json
from pipelines.local import server_process
from pipelines.local.server_process import ServerProcess, group_members, stop_group
from pipelines.ports import HOST, free_port_near, is_free, is_port

START_SECONDS, ANSWER_SECONDS = 90, 5
OTHER_SERVERS = re.compile("AWS_|RCLONE_|MLFLOW_(?!S3_|BOTO_|LOGGING_LEVEL|DISABLE_TELEMETRY)")
"""Variables that name or configure other servers; one that is started here does not get them."""


class EmbeddedServer:
    """A server with its data below `state`; the user's own server is used where its variables name one."""

    name: str
    title: str
    port: int  # unless the variable <NAME>_PORT has another
    health: str  # path of the request that shows whether it answers
    healthy: range | tuple[int, ...]  # HTTP statuses of an answer: a refusal too shows that the server runs
    address: tuple[str, ...]  # variables that name the user's own server; the first one is what the steps read
    prefix: str  # of the variables that configure its clients
    package: str  # the Python package that contains it
    command: str  # pattern of its command line

    def __init__(self, state: Path) -> None:
        self.records = state / "services.json"
        self.data = state / self.name
        self.log = state / "logs" / f"{self.name}.log"
        record = read_json(self.records, {}).get(self.name)
        process = ServerProcess(**record) if record else None
        self.process = process if process and process.state in ("", identity(state)) else None

    def external(self) -> dict[str, str]:
        """Return the user's settings for a server of their own; empty where they have none."""
        variables = {name: value for name, value in os.environ.items() if value}
        urls = [variables[name] for name in self.address if name in variables]
        if not urls:
            return {}
        settings = {name: value for name, value in variables.items() if name.startswith(self.prefix)}
        return settings | {self.address[0]: urls[0]}

    def in_use(self) -> ServerProcess | None:
        """Return the server that was started here; None where the user has one."""
        return None if self.external() else self.process

    def status(self) -> bool:
        """Print a line about the server; return whether it answers."""
        places = f"data {self.data}", f"log {self.log}"
        process = None
        if external := self.external():
            url = external.get(self.address[0], "")
            line = ["external", url]
        elif self.process and self.process.is_alive():
            process, url = self.process, self.process.url
            line = ["running", url, f"pid {process.pid}", *places]
        elif self._groups_without_folder():
            self.report(
                "running without its folder", f"{self.data} was removed: make up starts it again, make down stops it"
            )
            return False
        else:
            self.report("stopped", *places)
            return False
        try:
            listens = process is None or port_owner.is_served_by(process.pid, process.port)
            fault = "" if listens and self.answers(url) else "NO ANSWER"
        except StepError as error:
            fault = str(error)
        self.report(*line, fault)
        return not fault

    def down(self) -> None:
        """Stop the server that was started here."""
        if self.process:
            self.process.stop()
            self._record(None)
        for leader in self._groups_without_folder():
            stop_group(leader)
        self.report("stopped")

    def ensure_running(self, command: list[str], variables: dict[str, str]) -> str:
        """Return the server's URL; (re)start it unless it runs with the same command, variables and release.

        Raises:
            StepError: its port is taken, or it does not start.
        """
        settings = repr((command, sorted(variables.items()), self.release()))
        settings = hashlib.sha256(settings.encode()).hexdigest()
        process, action = self.process, "running"
        if not (process and process.settings == settings and process.is_alive()):
            process, action = self._restart(command, variables, settings), "started"
        self._wait(process)
        self._record(replace(process, family=group_members(process.pid)))
        self.report(action, process.url)
        return process.url

    def release(self) -> str:
        """Return the version of the server's code: another one has to be started again."""
        return version(self.package)

    def prepare(self) -> None:
        """Do what has to be done before each start."""

    def answers(self, url: str) -> bool:
        """Return whether the server answers; True for an address that is not HTTP (AWS itself, a database)."""
        if not url.startswith(("http://", "https://")):
            return True
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no secret is sent, so any certificate will do
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        try:
            parts = urlsplit(url)
            place = parts.netloc.rpartition("@")[2] + parts.path.rstrip("/") + self.health
            proxy = urllib.request.ProxyHandler({} if is_here(url) else None)
            opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=tls), proxy)
            with opener.open(f"{parts.scheme}://{place}", timeout=ANSWER_SECONDS) as reply:
                return reply.status in self.healthy
        except (OSError, http.client.HTTPException, ValueError) as error:
            return getattr(error, "code", None) in self.healthy

    def report(self, *parts: str) -> None:
        """Print a line about the server, without logins."""
        print(f"{self.title:<6}", *filter(None, map(without_logins, parts)), sep="  ", flush=True)

    def _restart(self, command: list[str], variables: dict[str, str], settings: str) -> ServerProcess:
        if self.process:
            self.process.stop()
        for leader in self._groups_without_folder():
            self.report(
                "stopping", f"a server whose folder, {self.data}, was removed while it ran; the new one starts empty"
            )
            stop_group(leader)
        self.prepare()
        port = self._choose_port()
        command = [part.replace("<port>", str(port)) for part in command]
        inherited = {name: value for name, value in os.environ.items() if not OTHER_SERVERS.match(name)}
        environment = inherited | around_proxy(*variables.values()) | variables | {"PYTHONUTF8": "1"}
        pid = server_process.start(command, environment, self.data, self.log)
        process = ServerProcess(pid, port, settings, group_members(pid), identity(self.records.parent))
        self._record(process)
        return process

    def _groups_without_folder(self) -> set[int]:
        return server_process.groups_without_folder(self.data, self.command)

    def _choose_port(self) -> int:
        variable = f"{self.name.upper()}_PORT"
        text = os.environ.get(variable) or str(self.process.port if self.process else self.port)
        if not is_port(text):
            advice = f"Choose one: make up {variable}={self.port}"
            raise StepError(f"{variable} is {text!r}, not a port from 1024 to 65535. {advice}")
        port = int(text)
        if not is_free(port):
            advice = f"Free it, or choose another: make up {variable}={free_port_near(port)}"
            raise StepError(f"port {port} on {HOST} is taken by another program. {advice}")
        return port

    def _wait(self, process: ServerProcess) -> None:
        """Wait until the server answers.

        Raises:
            StepError: it ended, or did not answer for START_SECONDS, or another program took its port.
        """
        start, announced = time.monotonic(), False
        while not (self._listens(process) and self.answers(process.url)):
            waited = time.monotonic() - start
            if waited > START_SECONDS or not process.is_alive():
                process.stop()
                what = "stopped" if waited < START_SECONDS else f"was silent for {waited:.0f} s"
                problem = f"{self.title} {what} while starting on {process.url}"
                tail = "\n    ".join(self.log.read_text(errors="replace").splitlines()[-8:])
                advice = "Correct that and run make up again"
                raise StepError(f"{problem}. Its log, {self.log}, ends:\n    {tail}\n{advice}")
            if waited > 1 and not announced:
                announced = True
                self.report("starting", process.url, "(the first time takes longest)")
            time.sleep(0.05)

    def _listens(self, process: ServerProcess) -> bool:
        """Return whether the server listens on its port.

        Raises:
            StepError: another program took the port. The server is stopped, and nothing is sent to that program.
        """
        try:
            return port_owner.is_served_by(process.pid, process.port)
        except StepError as error:
            process.stop()
            choice = f"{self.name.upper()}_PORT={free_port_near(process.port)}"
            advice = f"End that program, or choose another port: make down, then make up {choice}"
            raise StepError(f"{self.title}: {error}. {advice}") from error

    def _record(self, process: ServerProcess | None) -> None:
        self.process = process
        records = read_json(self.records, {}) | {self.name: process and asdict(process)}
        write_json(self.records, {name: record for name, record in records.items() if record}, 0o600)
