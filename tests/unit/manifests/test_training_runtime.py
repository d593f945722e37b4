"""The pods of a training on several nodes, as the TrainingRuntime describes them.

kubernetes-validate knows no TrainingRuntime: what it holds is checked as the Job that Kubeflow Trainer makes of it.
"""

import os
import subprocess

import pytest
import yaml

from components.train import trainjob, trainjob_api
from tests.unit.manifests.network import End
from tests.unit.manifests.overlays import MANIFESTS, OVERLAYS, RENDERER
from tests.unit.manifests.test_network import STEP
from tests.unit.manifests.test_pods import violations

FILE = OVERLAYS["gpu-cluster"] / "training-runtime.yaml"


@pytest.fixture
def runtime() -> dict:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def job(runtime) -> dict:
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    return job


@pytest.fixture
def pod(job) -> dict:
    return job["template"]["spec"]["template"]


def test_it_is_the_one_that_the_train_step_asks_for(runtime, job, pod):
    assert (runtime["apiVersion"], runtime["kind"]) == (trainjob.API_VERSION, "TrainingRuntime")
    assert (runtime["metadata"]["name"], runtime["metadata"]["namespace"]) == (trainjob.RUNTIME, "kubeflow")
    assert [container["name"] for container in pod["spec"]["containers"]] == [trainjob.CONTAINER]
    assert str(FILE.parent.relative_to(MANIFESTS.parent)) == trainjob_api.MANIFESTS


def test_trainer_finds_its_nodes_in_it_and_lets_torchrun_know(runtime, job):
    """By these names and labels Trainer's plugins know where to write number, image and PET_* variables."""
    assert (job["name"], job["replicas"]) == ("node", 1)
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert runtime["spec"]["mlPolicy"]["torch"] == {}  # its field numProcPerNode is gone since Trainer 2.2


def test_a_node_that_fails_is_not_tried_again_and_keeps_its_log(job, pod):
    assert job["template"]["spec"]["backoffLimit"] == 0
    assert pod["spec"]["restartPolicy"] == "Never"


def test_its_pods_are_restricted_and_bounded(pod):
    assert violations(pod["spec"]) == []
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod["spec"]["volumes"])
    assert pod["spec"]["automountServiceAccountToken"] is pod["spec"]["enableServiceLinks"] is False
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {m["mountPath"] for m in container["volumeMounts"]} == {"/tmp", "/dev/shm"}


def test_they_reach_mlflow_as_a_step_does_and_have_its_settings(pod, secrets):
    assert (
        STEP.labels.items() - {("pipeline/runid", "0123")} <= End("kubeflow", pod["metadata"]["labels"]).labels.items()
    )
    (container,) = pod["spec"]["containers"]
    assert container["envFrom"] == [
        {"configMapRef": {"name": "dwi-stroke-settings"}}, {"secretRef": {"name": "dwi-stroke-s3"}},
        {"secretRef": {"name": "dwi-stroke-mlflow"}},
    ]  # fmt: skip
    assert secrets["dwi-stroke-s3"] == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_the_job_in_it_is_one(job, version):
    validate = pytest.importorskip("kubernetes_validate").validate
    made = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job["template"]["spec"]}
    validate(made, version, strict=True)


def test_the_step_has_the_rights_that_it_uses_and_no_more():
    role, binding = yaml.safe_load_all((OVERLAYS["gpu-cluster"] / "multi-node-training.yaml").read_text())
    assert {(r, v) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"]} == {
        *(("trainjobs", verb) for verb in ("create", "get", "patch", "delete")),
        ("pods", "list"), ("events", "list"), ("pods/log", "get"),
    }  # fmt: skip
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": "kubeflow"}]


@pytest.mark.skipif(not RENDERER, reason="needs kubectl or kustomize on the PATH")
def test_it_is_part_of_the_overlay_only_for_those_who_ask_since_others_have_no_trainer(tmp_path):
    command = [RENDERER, "build"] if RENDERER.endswith("kustomize") else [RENDERER, "kustomize"]
    assert "TrainingRuntime" not in subprocess.check_output([*command, OVERLAYS["gpu-cluster"]], text=True)
    lines = (OVERLAYS["gpu-cluster"] / "kustomization.yaml").read_text()
    assert "  # - training-runtime.yaml" in lines
    (tmp_path / "training-runtime.yaml").write_text(FILE.read_text())
    top = {"resources": [os.path.relpath(OVERLAYS["gpu-cluster"], tmp_path), "training-runtime.yaml"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(top))
    assert "kind: TrainingRuntime" in subprocess.check_output([*command, tmp_path], text=True)
