"""Explain a pod: why it waits, why it failed, the end of its log, and its events.

    diagnose(pod)            None while the pod is well
    trouble(pod)             the text of the diagnosis alone
    events(core, pod)        one line each, the newest last
    log_end(core, pod, 20)   the last lines of the container that explains the pod

`pod` is a V1Pod and `core` a CoreV1Api of the kubernetes client.
"""

import datetime
import enum
from dataclasses import dataclass

import urllib3
from kubernetes.client import (
    CoreV1Api,
    CoreV1Event,
    V1Container,
    V1ContainerState,
    V1ContainerStateTerminated,
    V1ContainerStateWaiting,
    V1ContainerStatus,
    V1Pod,
)
from kubernetes.client.rest import ApiException

from components.core.kubernetes_errors import error_text

STEP_CONTAINERS = ("main", "node")
"""The container that runs a step: `main` in a pod of Argo, `node` in a pod of a TrainJob."""
NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError")
SIGNALS = {137: "killed (SIGKILL)", 139: "a crash in native code (SIGSEGV)", 143: "stopped (SIGTERM)"}
LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)


class Kind(enum.Enum):
    """The kinds of trouble; time alone may mend only the first."""

    NOT_SCHEDULED = enum.auto()
    CANNOT_START = enum.auto()
    ENDED_BY_CLUSTER = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True)
class Diagnosis:
    kind: Kind
    text: str


def diagnose(pod: V1Pod) -> Diagnosis | None:
    """Return what keeps the pod from starting, or ended it, and what to do; None for a pod that is well."""
    status = pod.status
    if status.phase == "Succeeded":
        return None
    if status.phase == "Failed" and status.reason:
        return Diagnosis(Kind.ENDED_BY_CLUSTER, _end_of_pod(pod))
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            why = (condition.message or condition.reason or "no reason is given").split(" preemption:")[0].rstrip(".")
            return Diagnosis(
                Kind.NOT_SCHEDULED,
                f"it cannot be scheduled: {why}. It waits until a node has room. Free or add what is missing.",
            )
    found = (_diagnose_container(pod, container) for container in _containers(pod))
    return next(filter(None, found), None)


def trouble(pod: V1Pod) -> str | None:
    """Return the text of the diagnosis; None for a pod that is well."""
    found = diagnose(pod)
    return found.text if found else None


def has_started(pod: V1Pod) -> bool:
    """Return whether any container of the pod has run."""
    return any(
        state and (state.running or state.terminated)
        for container in _containers(pod)
        for state in (container.state, container.last_state)
    )


def events(core: CoreV1Api, pod: V1Pod, warnings_only: bool = False) -> list[str]:
    """Return lines such as `12:34:56 Warning FailedMount: ...`, the newest last; or why they cannot be read."""
    selector = f"involvedObject.name={pod.metadata.name},involvedObject.uid={pod.metadata.uid}"
    try:
        found = core.list_namespaced_event(pod.metadata.namespace, field_selector=selector).items
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        return [f"its events cannot be read: {error_text(error)}"]
    return [
        f"{_time(event):%H:%M:%S} {event.type} {event.reason}: {' '.join((event.message or '').split())}"
        + (f" (x{event.count})" if (event.count or 1) > 1 else "")
        for event in sorted(found, key=_time)
        if event.type == "Warning" or not warnings_only
    ]


def log_end(core: CoreV1Api, pod: V1Pod, lines: int) -> list[str]:
    """Return the last log lines of the failing init container, the step's, the crashed, or else the first container.

    A container that crashed and was restarted gives the log of the crash. Empty before the container has started;
    where the log cannot be read, the reason.
    """
    container = _container_to_read(pod)
    try:
        return _read_log(core, pod, container, lines, _crashed_before(container))
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        if isinstance(error, ApiException) and error.status == 400:  # it has not started
            return []
        return [f"the log of container {container.name} cannot be read: {error_text(error)}"]


def _read_log(core: CoreV1Api, pod: V1Pod, container: V1ContainerStatus, lines: int, previous: bool) -> list[str]:
    source = {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "container": container.name}
    try:  # undecoded, because the client parses a log that happens to be JSON
        reply = core.read_namespaced_pod_log(**source, tail_lines=lines, previous=previous, _preload_content=False)
    except ApiException as error:
        if previous and error.status in (400, 404):  # the crashed instance's log is gone
            return _read_log(core, pod, container, lines, previous=False)
        raise
    return reply.data.decode(errors="replace").splitlines()


def _containers(pod: V1Pod) -> list[V1ContainerStatus]:
    """Return the init containers in their order, then the step's container, then the others."""
    step_first = sorted(pod.status.container_statuses or [], key=lambda c: c.name not in STEP_CONTAINERS)
    return [*(pod.status.init_container_statuses or []), *step_first]


def _container_to_read(pod: V1Pod) -> V1ContainerStatus:
    found = _containers(pod)
    if not found:  # the pod has no status of its containers yet
        return V1ContainerStatus(name=pod.spec.containers[0].name, image="", image_id="", ready=False, restart_count=0)
    init = {c.name for c in pod.status.init_container_statuses or []}
    failing = [c for c in found if _diagnose_container(pod, c)]
    for wanted in (
        [c for c in failing if c.name in init],
        [c for c in found if c.name in STEP_CONTAINERS],
        failing,
        [c for c in found if c.name not in init],
    ):
        if wanted:
            return wanted[0]
    return found[0]


def _diagnose_container(pod: V1Pod, container: V1ContainerStatus) -> Diagnosis | None:
    state = container.state or V1ContainerState()
    if state.waiting and (text := _why_not_started(pod, container, state.waiting)):
        return Diagnosis(Kind.CANNOT_START, text)
    if state.terminated and state.terminated.exit_code:
        return _diagnose_end(pod, container, state.terminated)
    if _crashed_before(container) and not container.ready:
        end = _diagnose_end(pod, container, container.last_state.terminated)
        return Diagnosis(end.kind, f"{end.text} It has been started again {container.restart_count} times.")
    return None


def _why_not_started(pod: V1Pod, container: V1ContainerStatus, waiting: V1ContainerStateWaiting) -> str:
    """Return why the container cannot start; "" where it is only waiting for its turn."""
    name = f"container {container.name}"
    if waiting.reason in NOT_PULLED:
        return (
            f"the image {_spec(pod, container.name).image} cannot be pulled: {waiting.message or waiting.reason}. Is "
            "its name right, does it exist (make kind-up loads ours into kind, make images-push REGISTRY=... pushes "
            "them to a registry), and may this cluster pull it (a private registry needs imagePullSecrets)?"
        )
    if waiting.reason == "CreateContainerConfigError":
        return (
            f"{name} cannot be set up: {waiting.message}. Create what is missing "
            "(manifests/create-secrets.sh makes the Secrets, the overlays in manifests/ the ConfigMaps)."
        )
    if waiting.reason in ("CreateContainerError", "RunContainerError"):
        return f"{name} cannot be started: {waiting.message}"
    return ""


def _crashed_before(container: V1ContainerStatus) -> bool:
    """Return whether it crashed and was restarted since, so that its current log is that of a new try."""
    last = container.last_state and container.last_state.terminated
    return bool(last and not (container.state and container.state.terminated))


def _diagnose_end(pod: V1Pod, container: V1ContainerStatus, end: V1ContainerStateTerminated) -> Diagnosis:
    if end.reason == "OOMKilled":
        resources = _spec(pod, container.name).resources
        limit = ((resources and resources.limits) or {}).get("memory")
        where = f" at its limit of {limit}" if limit else ", because the node had none left"
        smaller = ", or lower image_size, batch_size or base_channels" if container.name in STEP_CONTAINERS else ""
        text = f"container {container.name} ran out of memory{where}. Raise the limit{smaller}."
        return Diagnosis(Kind.ENDED_BY_CLUSTER, text)
    signal = f", {SIGNALS[end.exit_code]}" if end.exit_code in SIGNALS else ""
    why = f": {end.message.strip()}" if end.message else ""
    return Diagnosis(Kind.FAILED, f"container {container.name} failed with exit code {end.exit_code}{signal}{why}.")


def _end_of_pod(pod: V1Pod) -> str:
    why = (pod.status.message or "").strip().rstrip(".")
    if pod.status.reason == "Evicted":
        return f"the node evicted it: {why}. Free memory or disk on the node, or ask for more in its requests."
    if pod.status.reason == "DeadlineExceeded":
        limit = f" of {pod.spec.active_deadline_seconds} s" if pod.spec.active_deadline_seconds else ""
        return f"it was stopped at its time limit{limit}. Raise the limit."
    return f"it failed with {pod.status.reason}: {why or 'no reason is given'}."


def _spec(pod: V1Pod, name: str) -> V1Container:
    return next(c for c in [*(pod.spec.init_containers or []), *pod.spec.containers] if c.name == name)


def _time(event: CoreV1Event) -> datetime.datetime:
    seen = (event.series and event.series.last_observed_time, event.last_timestamp, event.event_time)
    return next(filter(None, (*seen, event.metadata.creation_timestamp)), LONG_AGO)
