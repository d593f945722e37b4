"""A training on two nodes through Kubeflow Trainer; skipped with the reason where that is not installed."""

import json
import subprocess

import pytest

from pipelines.image_tags import ROOT
from tests.cluster.conftest import CONTEXT, LAST_RUN, NAMESPACE, SMALL, TARGET, kubectl, make, until

pytestmark = pytest.mark.cluster

RUNTIME = "dwi-stroke-train"


@pytest.fixture(scope="module", autouse=True)
def trainer():
    known = kubectl("get", "crd", "-o", "name")
    if "trainjobs.trainer.kubeflow.org" not in known:
        pytest.skip("Kubeflow Trainer is not installed: this cluster knows no TrainJob (manifests/README.md)")
    look = ["kubectl", "--context", CONTEXT, "-n", NAMESPACE, "get", "trainingruntime", RUNTIME]
    if subprocess.run(look, capture_output=True).returncode:
        pytest.skip(
            f"no TrainingRuntime {RUNTIME}: kubectl apply -f manifests/overlays/gpu-cluster/training-runtime.yaml"
        )
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    gpus = sum(int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) for node in nodes)
    if gpus < 2:
        pytest.skip(f"two nodes of a training take a GPU each, and this cluster has {gpus}")


@pytest.fixture
def run(new_scans):
    """A run that trains on two nodes; its log while it runs."""
    command = ["make", "pipeline-run", f"TARGET={TARGET}", "NODES=2", "GPUS=1", f"DATA={new_scans()}"]
    log = ROOT / ".local" / "two-nodes.log"
    with log.open("w") as file:
        process = subprocess.Popen([*command, f"SET={SMALL} epochs=20"], cwd=ROOT, stdout=file, stderr=file)
    yield process, log
    process.kill()


def job_pods() -> list[dict]:
    run_id = json.loads(LAST_RUN.read_text())["kfp_run_id"]
    label = f"jobset.sigs.k8s.io/jobset-name=dwi-train-{run_id}"
    return json.loads(kubectl("-n", NAMESPACE, "get", "pods", "-l", label, "-o", "json"))["items"]


def test_two_nodes_train_one_model_name_their_devices_and_survive_the_loss_of_one(run):
    process, log = run
    pods = until(lambda: [p for p in job_pods() if p["status"]["phase"] == "Running"][1:] and job_pods())
    name = json.loads(LAST_RUN.read_text())["run_id"]
    said = until(lambda: [line for line in make("pipeline-logs", f"RUN={name}", "STEP=train").stdout.splitlines()
                          if "training slices" in line])  # fmt: skip
    assert "node 0: 1 x " in said[0] and "node 1: 1 x " in said[0]
    kubectl("-n", NAMESPACE, "delete", "pod", pods[-1]["metadata"]["name"], "--wait=false")
    assert process.wait(3600) == 0, log.read_text()[-5000:]
    assert json.loads(LAST_RUN.read_text())["status"] == "succeeded"
    assert not job_pods()
