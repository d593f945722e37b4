"""Pods in every trouble that a person meets, built from the JSON of the API server, and their diagnosis."""

import json
from types import SimpleNamespace

import pytest
from kubernetes import client
from kubernetes.client.rest import ApiException
from urllib3.exceptions import MaxRetryError

from components.core.pod_diagnosis import events, log_end, trouble

IMAGE = "registry.example/dwi/components:abc"


def from_api(content: dict, kind: str):
    """The client's object from the API server's JSON."""
    return client.ApiClient().deserialize(SimpleNamespace(data=json.dumps(content)), kind)


def status(name="app", restarts=0, ready=False, last=None, **state):
    return {
        "name": name, "image": "", "imageID": "", "restartCount": restarts, "ready": ready,
        "state": state, "lastState": {"terminated": last} if last else {},
    }  # fmt: skip


def make(*containers, init=(), phase="Pending", limits=None, **more) -> client.V1Pod:
    def spec(statuses):
        return [{"name": c["name"], "image": IMAGE, "resources": {"limits": limits or {}}} for c in statuses]

    containers = containers or (status(running={}, ready=True),)
    return from_api(
        {
            "metadata": {"name": "pod-1", "namespace": "kubeflow", "uid": "u-1"},
            "spec": {"containers": spec(containers), "initContainers": spec(init), "activeDeadlineSeconds": 60},
            "status": {"phase": phase, "containerStatuses": [*containers], "initContainerStatuses": [*init], **more},
        },
        "V1Pod",
    )


def waiting(reason, message="", **more):
    return status(waiting={"reason": reason, "message": message}, **more)


def ended(code, reason="Error", **more):
    return status(terminated={"exitCode": code, "reason": reason}, **more)


CRASH = {"exitCode": 3, "reason": "Error"}
UNSCHEDULABLE = {
    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available: 1 No victims.",
}  # fmt: skip


@pytest.mark.parametrize(
    "pod",
    [
        make(phase="Running"),
        make(waiting("ContainerCreating")),
        make(waiting("PodInitializing"), init=[status("init", running={})]),
        make(ended(0, "Completed"), phase="Succeeded"),
        make(status("main", running={}, ready=True), init=[ended(0, "Completed", name="init")], phase="Running"),
        make(status(running={}, ready=True, restarts=2, last=CRASH), phase="Running"),
    ],
    ids=["runs", "starts", "initialises", "done", "init done", "recovered"],
)
def test_a_pod_that_gets_on_is_in_no_trouble(pod):
    assert trouble(pod) is None


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"])
def test_an_image_that_cannot_be_pulled_is_named_with_what_to_do(reason):
    said = trouble(make(waiting(reason, f'Back-off pulling image "{IMAGE}": not found')))
    assert f"{IMAGE} cannot be pulled: Back-off" in said and "not found" in said
    assert "make kind-up" in said and "make images-push" in said and "imagePullSecrets" in said


def test_an_unschedulable_pod_gives_the_schedulers_reason_alone():
    said = trouble(make(conditions=[UNSCHEDULABLE]))
    assert "it cannot be scheduled: 0/1 nodes are available: 1 Insufficient memory. It waits" in said
    assert "victims" not in said


def test_a_missing_config_map_or_secret_is_named():
    said = trouble(make(waiting("CreateContainerConfigError", 'secret "dwi-stroke-s3" not found')))
    assert 'secret "dwi-stroke-s3" not found' in said and "create-secrets.sh" in said


def test_a_container_that_cannot_be_started_says_why():
    assert "no such file" in trouble(make(waiting("RunContainerError", 'exec: "mlflow": no such file')))


def test_a_crash_loop_gives_the_exit_code_and_the_count():
    said = trouble(make(waiting("CrashLoopBackOff", restarts=4, last=CRASH), phase="Running"))
    assert "container app failed with exit code 3" in said and "started again 4 times" in said


def test_between_two_crashes_it_is_still_in_trouble():
    assert "exit code 3" in trouble(make(status(running={}, restarts=1, last=CRASH), phase="Running"))


def test_out_of_memory_is_said_with_the_limit():
    pod = make(ended(137, "OOMKilled"), limits={"memory": "2Gi"}, phase="Failed")
    assert trouble(pod) == "container app ran out of memory at its limit of 2Gi. Raise the limit."
    step = make(ended(137, "OOMKilled", name="main"), phase="Failed")
    assert trouble(step).endswith("Raise the limit, or lower image_size, batch_size or base_channels.")
    assert "the node had none left" in trouble(make(ended(137, "OOMKilled"), phase="Failed"))


@pytest.mark.parametrize(("code", "said"), [(1, "exit code 1."), (137, "SIGKILL"), (139, "SIGSEGV"), (143, "SIGTERM")])
def test_a_failed_step_gives_its_exit_code(code, said):
    assert said in trouble(make(ended(code, name="main"), ended(0, name="wait"), phase="Failed"))


def test_of_an_argo_pod_main_is_named_first():
    assert "container main" in trouble(make(ended(2, name="wait"), ended(1, name="main"), phase="Failed"))


def test_an_evicted_pod_says_what_the_node_was_short_of():
    said = trouble(make(phase="Failed", reason="Evicted", message="The node was low on resource: memory. "))
    assert "evicted it: The node was low on resource: memory. Free" in said


def test_a_time_limit_is_said_with_its_seconds():
    assert "time limit of 60 s" in trouble(make(phase="Failed", reason="DeadlineExceeded"))


def test_any_other_end_of_a_pod_is_passed_on():
    said = trouble(make(phase="Failed", reason="UnexpectedAdmissionError", message="no GPU left"))
    assert "UnexpectedAdmissionError: no GPU left" in said


def test_an_init_container_in_trouble_comes_before_those_that_wait_for_it():
    pod = make(waiting("PodInitializing"), init=[waiting("CrashLoopBackOff", name="upgrade", restarts=2, last=CRASH)])
    assert "container upgrade failed with exit code 3" in trouble(pod)
    assert "cannot be pulled" in trouble(make(waiting("PodInitializing"), init=[waiting("ErrImagePull", name="init")]))


class Core:
    """A CoreV1Api that answers with what it is given and remembers what it was asked."""

    def __init__(self, log=b"", events=(), error=None, previous_error=None):
        self.log, self.given, self.error, self.previous_error, self.asked = log, events, error, previous_error, []

    def read_namespaced_pod_log(self, **asked):
        self.asked.append(asked)
        if self.error or (asked["previous"] and self.previous_error):
            raise self.error or self.previous_error
        return SimpleNamespace(data=self.log)

    def list_namespaced_event(self, namespace, field_selector):
        self.asked.append((namespace, field_selector))
        if self.error:
            raise self.error
        return SimpleNamespace(items=[from_api(event, "CoreV1Event") for event in self.given])


def read(pod, core=None):
    core = core or Core()
    lines = log_end(core, pod, 5)
    return lines, [(a["container"], a["previous"]) for a in core.asked]


@pytest.mark.parametrize(
    ("pod", "container"),
    [
        (make(ended(1, name="wait"), status("main", running={})), ("main", False)),
        (make(waiting("PodInitializing", name="main"), init=[ended(1, name="kfp-launcher")]), ("kfp-launcher", False)),
        (make(status("a", running={}, ready=True), ended(1, name="b")), ("b", False)),
        (make(waiting("CrashLoopBackOff", restarts=1, last=CRASH)), ("app", True)),
        (make(status("app", running={}), init=[ended(0, name="init")]), ("app", False)),
        (make(conditions=[UNSCHEDULABLE], containerStatuses=None), ("app", False)),
    ],
    ids=["Argo", "init failed", "one of two failed", "crash loop", "runs", "nothing known"],
)
def test_the_log_is_that_of_the_container_that_matters(pod, container):
    assert read(pod)[1] == [container]


def test_the_log_has_the_lines_asked_for_whatever_is_in_them():
    core = Core(log='{"a": 1}\nภาษาไทย\n'.encode() + b"\xff")
    assert read(make(), core)[0] == ['{"a": 1}', "ภาษาไทย", "\ufffd"]
    assert core.asked[0]["tail_lines"] == 5


def test_where_the_crashed_instances_log_is_gone_the_new_ones_is_read():
    pod = make(waiting("CrashLoopBackOff", restarts=1, last=CRASH))
    lines, asked = read(pod, Core(log=b"now", previous_error=ApiException(400, "previous not found")))
    assert (lines, asked) == (["now"], [("app", True), ("app", False)])


def test_a_container_that_has_not_started_has_no_log():
    assert read(make(), Core(error=ApiException(400, "is waiting to start")))[0] == []


@pytest.mark.parametrize("error", [ApiException(403, "Forbidden"), MaxRetryError(None, "/", "refused")])
def test_what_cannot_be_read_is_said_and_stops_nothing(error):
    (log,), (event,) = log_end(Core(error=error), make(), 5), events(Core(error=error), make())
    for line in (log, event):
        assert "cannot be read" in line and ("403 Forbidden" in line or "refused" in line)


def event(reason, message, **more):
    return {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "involvedObject": {},
        "type": "Warning", "reason": reason, "message": message, **more,
    }  # fmt: skip


def test_events_are_one_line_each_and_the_newest_last():
    core = Core(
        events=[
            event("Failed", "pull\n failed", lastTimestamp="2026-01-01T10:00:05Z", count=7),
            event("Scheduled", "to a node", eventTime="2026-01-01T10:00:01.000000Z"),
            event("Old", "has a creation time alone"),
        ]
    )
    assert events(core, make()) == [
        "00:00:00 Warning Old: has a creation time alone",
        "10:00:01 Warning Scheduled: to a node",
        "10:00:05 Warning Failed: pull failed (x7)",
    ]
    assert core.asked == [("kubeflow", "involvedObject.name=pod-1,involvedObject.uid=u-1")]


def test_times_of_every_kind_can_be_put_in_order():
    bare = event("Bare", "no time at all") | {"metadata": {}}
    assert events(Core(events=[event("Dated", "x"), bare]), make())[0].endswith("Bare: no time at all")
