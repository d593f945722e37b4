"""A cluster for tests: kind, or the cluster of KUBE_CONTEXT. Every test starts from its own scans.

None is timed: what a cluster comes to counts, not how fast.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from pipelines.cluster.api import Api
from pipelines.cluster.connect import KIND, Connection, connect
from pipelines.image_tags import ROOT

CONTEXT = os.environ.get("KUBE_CONTEXT") or KIND["context"]
TARGET = "kind" if KIND["context"] == CONTEXT else "cluster"
NAMESPACE = os.environ.get("KFP_NAMESPACE") or os.environ.get("PIPELINE_NAMESPACE") or "kubeflow"
SMALL = "image_size=32 base_channels=4 batch_size=8 precision=float32 memory_format=contiguous"
RUN_SECONDS = 60 * 60  # a hanging run ends its test
LAST_RUN = ROOT / ".local" / "last-run.json"


def kubectl(*arguments: str, given: str | None = None) -> str:
    command = ["kubectl", "--context", CONTEXT, "--request-timeout=30s", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, input=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


def found(*what: str) -> list[dict]:
    return json.loads(kubectl("-n", NAMESPACE, "get", *what, "-o", "json"))["items"]


def make(*arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS)


def until(what: Callable, seconds: float = RUN_SECONDS):
    """Return the result of `what` once it is true."""
    deadline = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < deadline, f"{what} came to nothing in {seconds} s"
        time.sleep(0.5)
    return result


class PipelineRun:
    """`make pipeline-run` in a process of its own, and its state while it runs."""

    def __init__(self, scans: Path, *more: str):
        settings = " ".join([SMALL, *more])
        self.log = scans.with_suffix(".log")
        last = LAST_RUN.read_text() if LAST_RUN.exists() else ""
        with self.log.open("w") as log:
            command = ["make", "pipeline-run", f"TARGET={TARGET}", f"DATA={scans}", f"SET={settings}"]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        until(lambda: self.process.poll() is not None or (LAST_RUN.exists() and LAST_RUN.read_text() != last))
        self.name, self.id = self.summary()["run_id"], self.summary()["kfp_run_id"]

    def summary(self) -> dict:
        return json.loads(LAST_RUN.read_text())

    def running(self, step: str) -> str | None:
        """Return the name of the step's pod, while its container runs."""
        pods = found("pods", "-l", f"pipeline/runid={self.id},app.kubernetes.io/component={step}")
        states = [(p["metadata"]["name"], s) for p in pods for s in p["status"].get("containerStatuses", [])]
        return next((name for name, s in states if s["name"] == "main" and "running" in s["state"]), None)

    def ended(self) -> tuple[int, str]:
        """Wait until the run is over; return its exit code and its output."""
        code = self.process.wait(RUN_SECONDS)
        return code, self.log.read_text()

    def succeeded(self) -> dict:
        """Return the summary of a run that succeeded."""
        code, said = self.ended()
        assert code == 0, said[-5000:]
        return self.summary()

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            with at_the_cluster() as (api, _), contextlib.suppress(Exception):
                api.stop(self.id)


@contextlib.contextmanager
def at_the_cluster() -> Iterator[tuple[Api, Connection]]:
    with connect(TARGET, CONTEXT) as connection:
        api = Api(connection.kfp_url, kind=TARGET == "kind")
        api.check()
        yield api, connection


@pytest.fixture(scope="session", autouse=True)
def cluster():
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl and a cluster: make kind-up, or KUBE_CONTEXT")
    ready = ["kubectl", "--context", CONTEXT, "--request-timeout=10s", "-n", NAMESPACE, "get", "configmaps"]
    done = subprocess.run(ready, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the cluster {CONTEXT}: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="session")
def demo_scans(cluster, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "scans"
    subprocess.run([sys.executable, "-m", "pipelines", "demo-data", "--folder", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def new_scans(demo_scans, tmp_path_factory) -> Callable[[], Path]:
    """new_scans(): the demo scans in a new folder, so that no run has their address in its cache."""
    return lambda: shutil.copytree(demo_scans, tmp_path_factory.mktemp("new") / f"scans-{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def start(new_scans) -> Iterator[Callable[..., PipelineRun]]:
    """start("epochs=2"): a pipeline run of new scans, or of `scans`; it ends with the tests of its file."""
    begun: list[PipelineRun] = []

    def start(*settings: str, scans: Path | None = None) -> PipelineRun:
        begun.append(PipelineRun(scans or new_scans(), *settings))
        return begun[-1]

    yield start
    for run in begun:
        run.end()


@pytest.fixture
def kfp_run() -> Callable[[str], object]:
    """kfp_run(id): a run as the KFP API returns it."""

    def look(run_id: str):
        with at_the_cluster() as (api, _):
            return api.run(run_id)

    return look


@pytest.fixture
def mlflow_runs() -> Callable[[str], list]:
    """mlflow_runs(id): the MLflow runs of a KFP run."""

    def look(kfp_run_id: str) -> list:
        with at_the_cluster() as (_, connection):
            client = mlflow.MlflowClient(connection.mlflow_url)
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            return list(client.search_runs(experiments, f"tags.kfp_run_id = '{kfp_run_id}'"))

    return look
