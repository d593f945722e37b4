"""Disturb pods: kill a process, delete or evict a pod, delete the pods of all services at once."""

import contextlib
import json
import subprocess

import mlflow

from components.core.errors import StepError
from pipelines.cluster.steps import OVER
from tests.cluster.conftest import CONTEXT, NAMESPACE, at_the_cluster, kubectl, until

SERVICES = (
    ("dwi-stroke", "app.kubernetes.io/name=mlflow"),
    ("dwi-stroke", "app.kubernetes.io/name=postgres"),
    (NAMESPACE, "app=seaweedfs"),
    (NAMESPACE, "app=ml-pipeline"),
    (NAMESPACE, "app=ml-pipeline-ui"),
    (NAMESPACE, "app=workflow-controller"),
)
"""Namespace and label of the services of a run; on another cluster some may be elsewhere, then no pod is found."""
KILL = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if b"executor_main" in file.read() and int(pid) not in (1, os.getpid()):
            os.kill(int(pid), signal.SIGKILL)
"""


def kill(pod: str) -> None:
    """Send SIGKILL to the step's own process, as a kernel without free memory does."""
    command = ["kubectl", "--context", CONTEXT, "-n", NAMESPACE, "exec", pod, "-c", "main", "--"]
    subprocess.run([*command, "python", "-c", KILL], capture_output=True, timeout=60)


def delete(pod: str) -> None:
    kubectl("-n", NAMESPACE, "delete", "pod", pod, "--wait=false")


def evict(pod: str) -> None:
    metadata = {"name": pod, "namespace": NAMESPACE}
    eviction = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata})
    address = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    kubectl("create", "--raw", address, "-f", "-", given=eviction)


def kill_services() -> list[str]:
    """Delete the pods of all services at once, without a grace period; return the labels of those that existed."""
    there = []
    for namespace, label in SERVICES:
        if kubectl("-n", namespace, "get", "pods", "-l", label, "-o", "name").strip():
            kubectl("-n", namespace, "delete", "pods", "-l", label, "--grace-period=0", "--force", "--wait=false")
            there.append(label)
    return there


def measured(kfp_run_id: str) -> dict[str, float]:
    """Return the test metrics of a run from MLflow once it has succeeded, also if the command that started it ended."""

    def over():
        with contextlib.suppress(StepError), at_the_cluster() as (api, _):
            run = api.run(kfp_run_id)
            return run if run.state in OVER else None

    run = until(over)
    assert run.state == "SUCCEEDED", run.state_history
    with at_the_cluster() as (_, connection):
        client = mlflow.MlflowClient(connection.mlflow_url)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        (logged,) = client.search_runs(experiments, f"tags.kfp_run_id = '{kfp_run_id}'")
    return {name: value for name, value in logged.data.metrics.items() if name.startswith("test_")}
