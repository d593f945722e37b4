"""The train step on several nodes, as the cluster's API sees it and as a person reads it."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from kubernetes import client

from components.core.errors import StepError
from components.core.settings import Settings
from components.train import nodes, trainjob, trainjob_api
from components.train.launch import launch
from components.train.training_inputs import TrainingPaths
from tests.support.kubernetes_stand_in import TRAIN_JOBS, Kubernetes, node_container, node_pod

RUN = "0c5b1b0e-3f51-4f3c-9d0b-2f9a6d1f7a11"
RESOURCES = {"requests": {"cpu": "1", "nvidia.com/gpu": 4}, "limits": {"cpu": 32, "nvidia.com/gpu": 4}}
ENVIRONMENT = {
    "TRAIN_NODES": "2", "TRAIN_GPUS": "4", "TRAIN_IMAGE": "registry/trainer:1",
    "TRAIN_RESOURCES": json.dumps(RESOURCES),
    "KFP_RUN_ID": RUN, "POD_NAMESPACE": "kubeflow", "POD_NAME": "train-pod", "POD_UID": "uid-1",
    "IMAGE_TAG": "registry/components:1", "AWS_SECRET_ACCESS_KEY": "not to be seen",
}  # fmt: skip
PATHS = TrainingPaths(*map(Path, ("cases", "slices", "split", "report", "model", "curves")))
SETTINGS = Settings(batch_size=16)


class NodeStorage:
    """Records the calls, in order."""

    did: list  # of the newest

    def __init__(self, name):
        self.name, NodeStorage.did = name, []

    def __getattr__(self, what):
        return lambda *given: NodeStorage.did.append((what, *given))


@pytest.fixture
def api(monkeypatch):
    with Kubernetes() as api:
        configuration = client.Configuration()
        configuration.host, configuration.retries = api.url, False
        client.Configuration.set_default(configuration)
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(nodes, "NodeStorage", NodeStorage)
        for name, seconds in {
            "POLL": 0.01,
            "HEARTBEAT": 0,
            "WARN_AFTER": 0.05,
            "GIVE_UP_AFTER": 0.2,
            "REMOVAL_TIMEOUT": 0.3,
        }.items():
            monkeypatch.setattr(trainjob, name, seconds)
        monkeypatch.setattr(trainjob_api, "PAUSE", 0.01)
        monkeypatch.setattr(trainjob_api, "TIMEOUT", 0.3)
        yield api
        client.Configuration.set_default(None)


def pod(node: int, phase: str = "Running", **status) -> dict:
    return node_pod(f"dwi-train-{RUN}", node, phase, **status)


def play(api, *scenes) -> None:
    """Play each scene before the next look at the submitted job; the last one stays."""
    rest = list(scenes)

    def next_scene(method: str, path: str) -> None:
        if method == "GET" and path.startswith(TRAIN_JOBS) and api.train_job and rest:
            rest.pop(0)()

    api.before_answer = next_scene


def train() -> None:
    launch(PATHS, SETTINGS)


def fails(match: str) -> None:
    with pytest.raises(StepError, match=match):
        train()


def test_a_train_job_asks_for_the_nodes_and_leaves_the_rest_to_the_runtime(api):
    play(api, lambda: api.end_train_job("Complete"))
    train()
    (job,) = api.submitted
    arguments = job["spec"]["trainer"].pop("args")
    assert json.loads(arguments[0]) == [f"dwi-train-{RUN}", 4, {"batch_size": 16}]
    assert job == {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": f"dwi-train-{RUN}",
            "labels": {"app.kubernetes.io/part-of": "dwi-stroke", "app.kubernetes.io/component": "train"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "train-pod", "uid": "uid-1"}],
        },
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "dwi-stroke-train",
            },
            "trainer": {
                "image": "registry/trainer:1",
                "command": ["python3", "-m", "components.train.node"],
                "numNodes": 2,
                "resourcesPerNode": RESOURCES,
                "env": [
                    {"name": "KFP_RUN_ID", "value": RUN}, {"name": "IMAGE_TAG", "value": "registry/trainer:1"},
                    {"name": "TRAIN_GPUS", "value": "4"},
                ],
            },
        },
    }  # fmt: skip
    assert len(job["metadata"]["name"]) <= 50


def test_the_first_nodes_log_is_shown_once_as_it_comes_and_the_results_are_taken(api, capsys):
    def starts():
        api.pods = [pod(1), pod(0)]

    play(
        api,
        starts,
        lambda: (api.add_node_log(0, "epoch 1/2"), api.add_node_log(1, "of no interest")),
        lambda: api.add_node_log(0, "epoch 2/2"),
        lambda: (api.add_node_log(0, '{"json": 1}'), api.end_train_job("Complete")),
    )
    train()
    assert [line for line in capsys.readouterr().out.splitlines() if "TrainJob" not in line] == [
        "epoch 1/2", "epoch 2/2", '{"json": 1}',
    ]  # fmt: skip
    did = [d for d in NodeStorage.did if d[0] != "beat"]
    assert did == [("upload_inputs", PATHS), ("download_results", PATHS), ("remove",)]
    assert NodeStorage.did.count(("beat",)) > 2
    assert api.train_job is None


def test_the_reason_is_that_of_the_node_that_failed_first_and_its_log_is_shown(api, capsys):
    def fail():
        api.pods = [pod(0, "Failed"), pod(1, "Failed")]
        api.add_node_log(
            0, "epoch 1/2", "ERROR train: unexpected DistBackendError: NCCL error. The lines above say where."
        )
        api.add_node_log(
            1, "a stack", "ERROR train: training diverged in epoch 2: the loss is nan. Lower learning_rate."
        )
        api.end_train_job("Failed", "jobset failed due to one or more job failures")

    play(api, fail)
    fails(r"^training diverged in epoch 2: the loss is nan\. Lower learning_rate\. \(node 1 of 2\)$")
    out = capsys.readouterr().out
    assert "epoch 1/2" in out and "node 1: a stack" in out and "DistBackendError" not in out
    assert (
        api.train_job is None
        and NodeStorage.did[-1] == ("remove",)
        and "download_results" not in {d[0] for d in NodeStorage.did}
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            node_container(terminated={"exitCode": 137, "reason": "OOMKilled"}),
            "^container node ran out of memory, .* or lower image_size",
        ),
        ({"reason": "Evicted", "message": "low on disk"}, "^the node evicted it: low on disk"),
        (
            node_container(terminated={"exitCode": 139}),
            "^container node failed with exit code 139, a crash .*The lines above show why",
        ),
        (None, "^the TrainJob .* failed and left no log. Failed: all jobs ended"),
    ],
)
def test_a_node_that_had_no_time_to_say_why(api, status, said):
    def fail():
        api.pods = [pod(0, "Failed", **status)] if status else []
        api.end_train_job("Failed")

    play(api, fail)
    fails(said)


def test_what_an_earlier_try_started_is_taken_over(api, capsys):
    api.train_job = {"metadata": {"name": f"dwi-train-{RUN}"}, "spec": {}}
    api.pods = [pod(0), pod(1)]
    api.add_node_log(0, "epoch 7/9")
    play(api, lambda: None, lambda: api.end_train_job("Complete"))
    train()
    assert not api.submitted and "upload_inputs" not in {d[0] for d in NodeStorage.did}
    assert api.patches[0]["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert "epoch 7/9" in capsys.readouterr().out and ("download_results", PATHS) in NodeStorage.did


@pytest.mark.parametrize("state", ["failed", "being deleted"])
def test_what_failed_in_an_earlier_try_is_removed_before_another_is_made(api, state):
    api.train_job = {"metadata": {"name": f"dwi-train-{RUN}"}, "spec": {}}
    if state == "failed":
        api.end_train_job("Failed")
    else:
        api.train_job["metadata"]["deletionTimestamp"] = "2026-11-23T07:00:00Z"
    play(api, lambda: None, lambda: api.end_train_job("Complete"))
    train()
    asked = [line.split() for line in api.requests]
    verbs = [verb for verb, path in asked if path.startswith(TRAIN_JOBS) and verb != "GET"]
    assert verbs == ["DELETE", "POST", "DELETE"]


@pytest.mark.parametrize(
    ("verb", "status", "body", "said"),
    [
        ("POST", 404, "404 page not found", r"Kubeflow Trainer is not installed.*NODES=1"),
        ("GET", 403, {"message": 'User "pipeline-runner" cannot get resource "trainjobs"'},
         r"has no permission: User \"pipeline-runner\" cannot get.*kubectl apply -f .*multi-node-training.yaml"),
        ("POST", 403, {"message": 'admission webhook "validator" denied the request: TrainingRuntime "x" not found: '
                                  "specified trainingRuntime must be created before the TrainJob is created"},
         r"the namespace kubeflow has no TrainingRuntime dwi-stroke-train. kubectl apply -f .*training-runtime.yaml"),
        ("POST", 422, {"message": "spec.trainer: unknown"}, "refuses the TrainJob .*: spec.trainer: unknown"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(api, verb, status, body, said):
    api.refusals[verb, TRAIN_JOBS] = [(status, body)]
    fails(said)
    assert NodeStorage.did[-1] == ("remove",)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient gpu"}]},
         "node 1 has no machine: it cannot be scheduled: 0/3 nodes: Insufficient gpu. It waits until a node has "
         "room. "
         "Free or add what is missing."),
        (node_container(waiting={"reason": "ContainerCreating"}), ""),
    ],
)  # fmt: skip
def test_what_waits_for_room_is_said_and_waited_for(api, caplog, state, said):
    caplog.set_level("WARNING")
    api.pods = [pod(0), pod(1, "Pending", **state)]
    play(api, *[lambda: None] * 40, lambda: api.end_train_job("Complete"))
    train()
    assert caplog.messages == ([f"waiting: {said}"] if said else [])


@pytest.mark.parametrize(
    ("waiting", "said"),
    [
        ({"reason": "ImagePullBackOff", "message": "not found"},
         "node 0 cannot start: the image registry/trainer:1 cannot be pulled: not found"),
        ({"reason": "CreateContainerConfigError", "message": "no secret dwi-stroke-s3"},
         "node 0 cannot start: container node cannot be set up: no secret dwi-stroke-s3"),
    ],
)  # fmt: skip
def test_what_time_does_not_mend_is_said_and_given_up(api, caplog, waiting, said):
    api.pods = [pod(0, "Pending", **node_container(waiting=waiting)), pod(1)]
    fails(said)
    assert any(m.startswith(f"waiting: {said}") for m in caplog.messages)
    assert api.train_job is None


def test_pods_that_are_not_made_are_said_with_the_clusters_reason(api, caplog):
    caplog.set_level("WARNING")
    name = f"dwi-train-{RUN}-node-0"
    api.events = [
        {"metadata": {}, "involvedObject": {"name": other}, "type": "Warning", "message": message}
        for other, message in ((name, "exceeded quota: gpus"), ("something-else", "no"))
    ]
    play(api, *[lambda: None] * 40, lambda: api.end_train_job("Complete"))
    train()
    assert caplog.messages == ["waiting: 0 of 2 nodes have a pod: exceeded quota: gpus"]
    assert "GET /api/v1/namespaces/kubeflow/events" in api.requests


def test_a_server_that_is_away_for_a_while_is_waited_for_and_one_that_stays_away_is_not(api, caplog):
    api.pods = [pod(0), pod(1)]
    play(api, lambda: None, lambda: None, lambda: api.end_train_job("Complete"))
    api.refusals["GET", TRAIN_JOBS] = [(503, "unavailable")] * 2
    api.refusals["POST", TRAIN_JOBS] = [(500, {"message": "failed calling webhook"})]
    train()
    assert any("trying again: failed calling webhook" in m for m in caplog.messages)

    api.refusals["GET", TRAIN_JOBS] = [(503, "unavailable")] * 1000
    fails("the Kubernetes API does not answer: unavailable")


def test_a_job_that_somebody_deleted_is_no_riddle(api):
    play(api, lambda: setattr(api, "train_job", None))
    fails("somebody deleted the TrainJob")


@pytest.mark.parametrize(("number", "ends_as"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_step_that_is_stopped_removes_what_it_started(api, number, ends_as):
    api.pods = [pod(0), pod(1)]
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell ignores it
    threading.Timer(0.3, os.kill, [os.getpid(), number]).start()
    with pytest.raises(ends_as):
        train()
    assert api.train_job is None and NodeStorage.did[-1] == ("remove",)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_batch_that_is_too_small_to_share_is_refused_before_anything_starts(api):
    with pytest.raises(StepError, match=r"batch_size=4 is too small for 2 x 4 GPUs. Raise it to 8"):
        launch(PATHS, Settings(batch_size=4))
    assert not api.requests


def test_folds_that_train_side_by_side_have_train_jobs_of_their_own(api, monkeypatch):
    monkeypatch.setenv("TRAIN_FOLD", "10")
    play(api, lambda: api.end_train_job("Complete"))
    train()
    name = api.submitted[0]["metadata"]["name"]
    assert name == f"dwi-fold10-{RUN}"
    assert len(f"{name}-node-0-0-abcde") < 63, "the longest name of a pod"
    arguments = json.loads(api.submitted[0]["spec"]["trainer"]["args"][0])
    assert arguments[0] == name, "and storage of their own"
