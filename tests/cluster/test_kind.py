"""The whole pipeline on the cluster of make kind-up, twice, the second time from cache; logs, and security of pods."""

import json
import shutil
import subprocess

import pytest

from pipelines.pipeline import STEPS
from pipelines.sources import ROOT
from tests.unit.manifests.test_pods import violations

pytestmark = pytest.mark.cluster

CONTEXT = "kind-dwi-stroke"
SMALL = "image_size=32 base_channels=4 epochs=1"
RUN_SECONDS = 45 * 60
NEVER_CACHED = {"fingerprint", "evaluate", "register"}  # the bucket, champion and registry may have changed


def kubectl(*arguments: str) -> str:
    command = ["kubectl", "--context", CONTEXT, "--request-timeout=30s", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def cluster():
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl and a cluster: make kind-up")
    ready = [
        "kubectl",
        "--context",
        CONTEXT,
        "--request-timeout=10s",
        "-n",
        "kubeflow",
        "get",
        "deployment",
        "ml-pipeline",
    ]
    done = subprocess.run(ready, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the cluster of make kind-up: {done.stderr.strip().splitlines()[-1]}")


def pipeline_run() -> dict:
    """`make pipeline-run TARGET=kind` on the demo scans: its summary."""
    command = ["make", "pipeline-run", "TARGET=kind", f"SET={SMALL}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return json.loads((ROOT / ".local" / "last-run.json").read_text())


@pytest.fixture(scope="module")
def first(cluster):
    return pipeline_run()


@pytest.fixture(scope="module")
def second(first):
    return pipeline_run()


def test_a_run_ends_with_a_registered_model_and_its_metrics(first):
    assert (first["status"], first["target"]) == ("succeeded", "kind")
    assert first["steps"].keys() == set(STEPS)
    assert {step["state"] for step in first["steps"].values()} == {"succeeded"}
    assert first["model"]["name"] == "dwi-attention-unet" and "challenger" in first["model"]["aliases"]
    assert first["metrics"]["test_patients"] > 0


def test_with_nothing_changed_everything_comes_from_cache_and_no_new_version_is_made(first, second):
    assert second["status"] == "succeeded"
    assert {name for name, step in second["steps"].items() if not step["cached"]} <= NEVER_CACHED
    assert second["model"]["version"] == first["model"]["version"]
    assert second["wall_seconds"] < first["wall_seconds"]


def steps_pods() -> list[dict]:
    return json.loads(
        kubectl("-n", "kubeflow", "get", "pods", "-l", "app.kubernetes.io/part-of=dwi-stroke", "-o", "json")
    )["items"]


def test_a_steps_log_is_found_by_label(first):
    log = kubectl("-n", "kubeflow", "logs", "-l", "app.kubernetes.io/component=register", "-c", "main", "--tail=-1")
    assert log.strip()


def test_the_pods_of_the_steps_are_restricted(first):
    found = {pod["metadata"]["name"]: violations(pod["spec"]) for pod in steps_pods()}
    assert found and not any(found.values()), found


def test_nothing_of_ours_restarted(first):
    pods = json.loads(kubectl("-n", "dwi-stroke", "get", "pods", "-o", "json"))["items"]
    restarts = {p["metadata"]["name"]: sum(c["restartCount"] for c in p["status"]["containerStatuses"]) for p in pods}
    assert restarts and not any(restarts.values()), restarts
