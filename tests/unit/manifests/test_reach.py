"""Who may reach whom, whole: every pod of ours and some that are not, at every port that anything here listens on.

What is not in the table is forbidden, and tried.
"""

import pytest
import yaml

from tests.unit.manifests.network import End, allowed
from tests.unit.manifests.overlays import MANIFESTS, documents, from_files, pod
from tests.unit.manifests.test_network import (
    CLOUD_METADATA,
    DNS,
    IMPOSTOR,
    INGRESS,
    INTERNET,
    KFP_API,
    KFP_UI,
    LAPTOP,
    OTHER_STEP,
    SEAWEEDFS,
    STEP,
    STRAY,
    policies,
)

CLIENT = End("viewers", {"app": "pacs"}, {"dwi-stroke/may-segment": "true"})
NEIGHBOUR = End("viewers-too", {"app": "pacs"})
SERVING = [o for name in ("inference-service", "network-policies") for o in documents(
    (MANIFESTS / "serving" / f"{name}.yaml").read_text()
)]  # fmt: skip
TRAINING = yaml.safe_load((MANIFESTS / "overlays" / "gpu-cluster" / "training-runtime.yaml").read_text())

PORTS = {
    "mlflow": (22, 80, 5000, 5432), "postgres": (22, 5000, 5432), "serving": (22, 5000, 8080),
    "bucket job": (22, 80), "step": (22, 80, 8080, 29500), "node": (22, 8080, 29500, 45123),
    "S3 of KFP": (8111, 8333, 8888, 9333), "KFP's API": (8887, 8888), "KFP's pages": (3000,),
    "names": (53, 9153), "internet": (80, 443, 5432), "cloud's metadata": (80, 443),
}  # fmt: skip
INSIDE = {
    ("step", "mlflow", 5000), ("node", "mlflow", 5000), ("serving", "mlflow", 5000),
    ("client", "serving", 8080),
    ("mlflow", "names", 53), ("bucket job", "names", 53), ("serving", "names", 53),
    *(("node", "node", port) for port in PORTS["node"]),
}  # fmt: skip
"""The same in both overlays, with serving beside them."""
OF_OVERLAY = {
    "kind": {
        ("laptop", "mlflow", 5000), ("laptop", "KFP's pages", 3000),
        ("mlflow", "postgres", 5432), ("mlflow", "S3 of KFP", 8333), ("bucket job", "S3 of KFP", 8333),
        # An address outside is the way in through the node ports, whichever it is.
        ("internet", "mlflow", 5000), ("internet", "KFP's pages", 3000),
        ("cloud's metadata", "mlflow", 5000), ("cloud's metadata", "KFP's pages", 3000),
    },
    "gpu-cluster": {
        ("ingress", "mlflow", 5000),
        ("mlflow", "internet", 443), ("mlflow", "internet", 5432), ("bucket job", "internet", 443),
    },
}  # fmt: skip


@pytest.fixture(params=["kind", "gpu-cluster"])
def overlay(request) -> str:
    return request.param


@pytest.fixture
def ends(overlay) -> dict[str, End]:
    objects = from_files(overlay)
    (predictor,) = (o["spec"]["predictor"] for o in SERVING if o["kind"] == "InferenceService")
    (job,) = TRAINING["spec"]["template"]["spec"]["replicatedJobs"]
    found = {
        "step": End(STEP.namespace, STEP.labels | {"app.kubernetes.io/component": "ingest"}),
        "node": End("kubeflow", job["template"]["spec"]["template"]["metadata"]["labels"]),
        "serving": End("dwi-stroke", predictor["labels"]), "client": CLIENT, "neighbour": NEIGHBOUR,
        "another's step": OTHER_STEP, "impostor": IMPOSTOR, "stray": STRAY, "KFP's API": KFP_API,
        "KFP's pages": KFP_UI, "S3 of KFP": SEAWEEDFS, "names": DNS, "ingress": INGRESS, "laptop": LAPTOP,
        "internet": INTERNET, "cloud's metadata": CLOUD_METADATA,
    }  # fmt: skip
    for kind, name, title in (
        ("Deployment", "mlflow", "mlflow"), ("StatefulSet", "postgres", "postgres"),
        ("Job", "create-bucket", "bucket job"),
    ):  # fmt: skip
        if workload := objects.get((kind, "dwi-stroke", name)):
            found[title] = End("dwi-stroke", pod(workload)["metadata"]["labels"])
    return found


@pytest.fixture
def reached(overlay, ends) -> set[tuple[str, str, int]]:
    """Every way that is open, of all that there could be."""
    rules = [*policies(from_files(overlay)), *(o for o in SERVING if o["kind"] == "NetworkPolicy")]
    return {
        (source, target, port)
        for source in ends
        for target in ends.keys() & PORTS.keys()
        for port in PORTS[target]
        if allowed(rules, ends[source], ends[target], port)
    }


def test_every_workload_of_ours_is_in_the_table(overlay, ends):
    ours = [pod(o)["metadata"]["labels"] for o in from_files(overlay).values() if pod(o)]
    assert all(any(labels == end.labels for end in ends.values()) for labels in ours)


def test_our_pods_are_reached_by_those_in_the_table_and_no_others(overlay, reached):
    ours = {"mlflow", "postgres", "serving", "bucket job", "step", "node"}
    table = {way for way in INSIDE | OF_OVERLAY[overlay] if way[1] in ours}
    assert {way for way in reached if way[1] in ours} == table


def test_our_pods_in_their_own_namespace_reach_those_in_the_table_and_no_others(overlay, reached):
    ours = {"mlflow", "postgres", "serving", "bucket job", "stray"}
    table = {way for way in INSIDE | OF_OVERLAY[overlay] if way[0] in ours}
    assert {way for way in reached if way[0] in ours} == table
