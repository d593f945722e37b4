"""Who attacks: another login of this machine, and a writer of the bucket alone; and the house that they attack."""

import contextlib
import http.client
import multiprocessing
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from components.core.errors import StepError
from components.core.storage import Storage, work_bucket
from components.registry.tracking import MODEL_NAME
from pipelines.local import services
from pipelines.models.promotion import promote
from tests.faults import steps
from tests.faults.services import forget_services, free_port

NOBODY = 65534
PASSED = range(200, 400)
"""The statuses of an answer that is no refusal."""
SECRET = re.compile("SECRET|TOKEN|PASSWORD|ACCESS_KEY")


@dataclass(frozen=True)
class House:
    """A checkout's state folder with its two servers, and what an undisturbed pipeline run left.

    folder: open to every login of the machine; `state` lies in it. environment: of the clients of the servers.
    """

    folder: Path
    environment: dict[str, str]

    @property
    def state(self) -> Path:
        return self.folder / ".local"

    @property
    def run(self) -> Path:
        return self.state / "pipeline-root"

    @property
    def secrets(self) -> list[str]:
        kept = [text for path in self.state.glob("*.json") for text in re.findall(r'"([^"\s]{16,})"', path.read_text())]
        return [*{*kept, *(value for name, value in self.environment.items() if SECRET.search(name))}]


@contextlib.contextmanager
def inhabited(scans: Path) -> Iterator[House]:
    """Start the servers, run all steps on the scans, make version 1 champion.

    This process's environment points there until the end.
    """
    folder = Path(tempfile.mkdtemp(prefix="house-", dir="/tmp"))
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        forget_services(patch)
        for name in ("S3_PORT", "MLFLOW_PORT"):
            patch.setenv(name, free_port())
        house = House(folder, services.up(folder / ".local"))
        try:
            for name, value in {**house.environment, "IMAGE_TAG": "torture:1", "KFP_RUN_ID": "undisturbed"}.items():
                patch.setenv(name, value)
            patch.setenv("SCRATCH_DIR", str(house.state / "scratch"))
            steps.run(scans, house.run)
            promote(f"models:/{MODEL_NAME}/1", "too few test patients for the policy", house.state)
            yield house
        finally:
            for name in ("MLFLOW_TRACKING_URI", "S3_ENDPOINT_URL"):
                patch.delenv(name, raising=False)
            services.down(house.state)
            shutil.rmtree(folder, ignore_errors=True)


def as_another_login(attacks: dict[str, Callable[[], object]]) -> dict[str, str]:
    """Carry the attacks out under the uid 65534; what each of them got, without those that were refused.

    A refusal is an OSError, or an answer that is false.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another login")
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def attack_all() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        got = {}
        for name, attack in attacks.items():
            with contextlib.suppress(OSError, http.client.HTTPException):
                if found := attack():
                    got[name] = repr(found)[:120]
        theirs.send(got)

    child = context.Process(target=attack_all)
    child.start()
    try:
        assert ours.poll(300), "the other login gave no answer"
        return ours.recv()
    finally:
        child.kill()
        child.join()


def on_path(path: Path) -> dict[str, Callable[[], object]]:
    """Read, alter, replace and remove a file or a folder."""

    def read() -> object:
        return [*path.iterdir()] if path.is_dir() else path.open("rb").read(100) or "it opens"

    def write() -> object:
        if path.is_dir():
            (path / "planted.part").symlink_to("/etc/passwd")
        return path.is_dir() or path.open("ab")

    def rename() -> object:
        return path.rename(path.with_name(f"{path.name}.moved"))

    def remove() -> object:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return True

    attacks = (("read", read), ("write", write), ("rename", rename), ("remove", remove))
    return {f"{name} {path}": attack for name, attack in attacks}


def on_server(url: str, requests: list[tuple[str, str, str]], headers: dict | None = None) -> dict:
    """Send requests (method, path, body) without a login; got is what is not refused."""

    def ask(method: str, path: str, body: str) -> object:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, body or None, sent)
        answer = connection.getresponse()
        return answer.status in PASSED and (answer.status, answer.read(80))

    return {f"{method} {path}": lambda r=(method, path, body): ask(*r) for method, path, body in requests}


def on_processes(secrets: list[str]) -> dict[str, Callable[[], object]]:
    """Look for secrets in what the list of processes shows of each."""

    def look(place: str) -> object:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                content = (process / place).read_bytes()
                if process.stat().st_uid != NOBODY:
                    found += [process.name for secret in secrets if secret.encode() in content]
        return found

    return {f"secrets in /proc/*/{place}": lambda place=place: look(place) for place in ("cmdline", "environ")}


class BucketWriter:
    """Who may put and delete objects, and nothing else. `harm` does one thing to one object, `mend` undoes it."""

    ACTS = ("flip a bit", "cut", "empty", "other numbers", "replay another", "add a line", "delete", "rename", "copy")

    def __init__(self, random: random.Random):
        self.random, self.bucket = random, Storage(f"s3://{work_bucket()}")
        self.before: dict[str, bytes | None] = {}

    def places(self) -> list[str]:
        return [o.key for o in self.bucket.list()]

    def harm(self, key: str, act: str) -> None:
        blob = self.bucket.get(key)
        if act in ("delete", "rename"):
            self._delete(key)
        if act in ("rename", "copy"):
            name = f"{key.rpartition('/')[0]}/{self.random.choice('az')}{key.rpartition('/')[2]}"
            self._put(name, blob)
        elif act != "delete":
            self._put(key, self._changed(key, blob, act))

    def mend(self) -> None:
        for key, blob in self.before.items():
            self.bucket.delete([key]) if blob is None else self.bucket.put(key, blob)
        self.before.clear()

    def _changed(self, key: str, blob: bytes, act: str) -> bytes:
        at = self.random.randrange(len(blob)) if blob else 0
        if act == "flip a bit":
            return blob[:at] + bytes([blob[at] ^ 1 << self.random.randrange(8)]) + blob[at + 1 :] if blob else b"x"
        if act == "other numbers":
            return re.sub(rb"0\.\d\d", b"0.99", blob) if re.search(rb"0\.\d\d", blob) else blob + b"0.99"
        if act == "replay another":
            same = [k for k in self.places() if k != key and k.rpartition(".")[2] == key.rpartition(".")[2]]
            return self.bucket.get(self.random.choice(same)) if same else b"{}"
        return {"cut": blob[: len(blob) // 2], "empty": b"", "add a line": blob + b"\n"}[act]

    def _put(self, key: str, blob: bytes) -> None:
        self._remember(key)
        self.bucket.put(key, blob)

    def _delete(self, key: str) -> None:
        self._remember(key)
        self.bucket.delete([key])

    def _remember(self, key: str) -> None:
        if key not in self.before:
            self.before[key] = self.bucket.get(key) if self.bucket.find(key) else None


def answer_or_refusal(ask: Callable[[], object]) -> tuple[object, str]:
    """What a question came to, and the refusal in words ("" where there is none)."""
    try:
        return ask(), ""
    except StepError as refusal:
        return None, str(refusal)
