"""Which pods reach MLflow, PostgreSQL, SeaweedFS and Kubeflow's page, and which must not: tried from pods."""

import json
import subprocess
import uuid

import pytest

from tests.cluster.conftest import CONTEXT, NAMESPACE, TARGET, found, kubectl, until

pytestmark = pytest.mark.cluster

OURS = {"app.kubernetes.io/part-of": "dwi-stroke"}
STEP = OURS | {"app.kubernetes.io/component": "split"}
MLFLOW = "mlflow.dwi-stroke.svc.cluster.local", 5000
POSTGRES = "postgres.dwi-stroke.svc.cluster.local", 5432
SEAWEEDFS = f"seaweedfs.{NAMESPACE}.svc.cluster.local", 8333
PAGE = f"ml-pipeline-ui.{NAMESPACE}.svc.cluster.local", 80
ON_KIND = pytest.mark.skipif(TARGET != "kind", reason="overlays/kind has this policy, other clusters their own")
TRY = """
import socket, sys, time
deadline = time.monotonic() + 20  # policies and DNS take a moment to work for a new pod
while True:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 4).close()
        print("reached")
        break
    except OSError as error:
        if time.monotonic() > deadline:
            print("not reached:", error)
            break
        time.sleep(1)
"""


@pytest.fixture(scope="module")
def image():
    """An image with Python that the cluster has already: that of MLflow."""
    pods = json.loads(kubectl("-n", "dwi-stroke", "get", "pods", "-l", "app.kubernetes.io/name=mlflow", "-o", "json"))
    return pods["items"][0]["spec"]["containers"][0]["image"]


@pytest.fixture(scope="module")
def stranger():
    """A namespace that has no rights."""
    name = f"stranger-{uuid.uuid4().hex[:6]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def probe(image):
    """probe(namespace, labels, address, port): whether a pod with these labels connects."""
    made = []

    def probe(namespace: str, labels: dict[str, str], address: str, port: int) -> bool:
        name = f"probe-{uuid.uuid4().hex[:8]}"
        container = {
            "name": "probe", "image": image, "command": ["python3", "-c", TRY, address, str(port)],
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            },
        }  # fmt: skip
        spec = {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}
            },
        }  # fmt: skip
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
        kubectl("-n", namespace, "apply", "-f", "-", given=json.dumps(pod))
        made.append((namespace, name))
        phase = ("-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.phase}")
        until(lambda: kubectl(*phase) in ("Succeeded", "Failed"), 300)
        said = kubectl("-n", namespace, "logs", name)
        assert "reached" in said, said
        return said.startswith("reached")

    yield probe
    for namespace, name in made:
        command = ["kubectl", "--context", CONTEXT, "-n", namespace, "delete", "pod", name, "--wait=false"]
        subprocess.run(command, capture_output=True)


def test_the_cluster_enforces_policies_at_all(probe, stranger):
    """Otherwise the tests below would pass without a policy: kindnet needs a kernel with nft queues."""
    deny = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"kept": "in"}}, "policyTypes": ["Egress"]},
    }  # fmt: skip
    kubectl("-n", stranger, "apply", "-f", "-", given=json.dumps(deny))
    assert not probe(stranger, {"kept": "in"}, "kubernetes.default.svc.cluster.local", 443)
    assert probe(stranger, {"kept": "out"}, "kubernetes.default.svc.cluster.local", 443)


@pytest.mark.parametrize(
    ("labels", "there"),
    [
        pytest.param(STEP, MLFLOW, id="a step reaches MLflow"),
        pytest.param(STEP, SEAWEEDFS, id="a step reaches SeaweedFS", marks=ON_KIND),
        pytest.param({}, PAGE, id="a pod of kubeflow reaches its page"),
    ],
)
def test_these_reach_what_they_need(probe, labels, there):
    assert probe(NAMESPACE, labels, *there)


@pytest.mark.parametrize(
    ("labels", "there"),
    [
        pytest.param({}, MLFLOW, id="a pod of kubeflow that is no step of ours does not reach MLflow"),
        pytest.param(STEP, POSTGRES, id="a step does not reach PostgreSQL"),
        pytest.param({}, POSTGRES, id="no pod of kubeflow reaches PostgreSQL"),
    ],
)
def test_these_pods_of_kubeflow_must_not_connect(probe, labels, there):
    assert not probe(NAMESPACE, labels, *there)


@pytest.mark.parametrize(
    "there",
    [
        pytest.param(MLFLOW, id="MLflow"),
        pytest.param(POSTGRES, id="PostgreSQL"),
        pytest.param(SEAWEEDFS, id="SeaweedFS", marks=ON_KIND),
        pytest.param(PAGE, id="Kubeflow's page", marks=ON_KIND),
    ],
)
def test_a_stranger_reaches_nothing_even_with_a_steps_labels(probe, stranger, there):
    assert not probe(stranger, STEP, *there)


@pytest.mark.parametrize(
    ("labels", "there"),
    [
        pytest.param({"app.kubernetes.io/name": "nobody"}, MLFLOW, id="MLflow"),
        pytest.param({"app.kubernetes.io/name": "nobody"}, POSTGRES, id="PostgreSQL"),
        pytest.param(OURS, SEAWEEDFS, id="SeaweedFS"),
    ],
)
def test_another_pod_of_our_own_namespace_reaches_nothing(probe, labels, there):
    assert not probe("dwi-stroke", labels, *there)


def test_the_policies_are_those_of_the_manifests(image):
    names = {policy["metadata"]["name"] for policy in found("networkpolicies")}
    assert {"dwi-stroke-steps", "dwi-stroke-training-nodes"} <= names
