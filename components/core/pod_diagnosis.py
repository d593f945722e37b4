"""Why a pod is not getting on, in words, with the end of its log and what the cluster noted of it.

    trouble(pod)             None while all is well
    events(core, pod)        one line each, the newest last
    log_end(core, pod, 20)   the last lines of the container that matters

`pod` is a V1Pod and `core` a CoreV1Api of the kubernetes client.
"""

import datetime

import urllib3
from kubernetes.client import CoreV1Api, V1ContainerState, V1ContainerStatus, V1Pod
from kubernetes.client.rest import ApiException

MAIN = "main"  # the container of an Argo pod that runs the step; the others carry its data in and out
NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError")
SIGNALS = {137: "killed (SIGKILL)", 139: "a crash in native code (SIGSEGV)", 143: "told to stop (SIGTERM)"}
LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)


def trouble(pod: V1Pod) -> str | None:
    """What keeps the pod from starting, or ended it, and what to do; None where nothing does."""
    status = pod.status
    if status.phase == "Succeeded":
        return None
    if status.phase == "Failed" and status.reason:
        return _end_of_pod(pod)
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            why = (condition.message or condition.reason or "no reason is given").split(" preemption:")[0].rstrip(".")
            return f"no node takes it: {why}. It waits until one does; free or add what is missing."
    found = (_container_trouble(pod, container) for container in _containers(pod))
    return next(filter(None, found), None)


def has_started(pod: V1Pod) -> bool:
    """Whether any of its containers has run."""
    return any(
        state and (state.running or state.terminated)
        for container in _containers(pod)
        for state in (container.state, container.last_state)
    )


def events(core: CoreV1Api, pod: V1Pod, warnings_only: bool = False) -> list[str]:
    """`12:34:56 Warning FailedMount: ...`, the newest last; a line that says so where they cannot be read."""
    selector = f"involvedObject.name={pod.metadata.name},involvedObject.uid={pod.metadata.uid}"
    try:
        found = core.list_namespaced_event(pod.metadata.namespace, field_selector=selector).items
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        return [f"its events cannot be read: {_reason(error)}"]
    return [
        f"{_when(event):%H:%M:%S} {event.type} {event.reason}: {' '.join((event.message or '').split())}"
        + (f" (x{event.count})" if (event.count or 1) > 1 else "")
        for event in sorted(found, key=_when)
        if event.type == "Warning" or not warnings_only
    ]


def log_end(core: CoreV1Api, pod: V1Pod, lines: int) -> list[str]:
    """The last lines of the failing init container, of `main`, of the crashed container, or else of the first.

    Of a container that crashed and was started again, the crashed instance's. Empty where nothing has run yet; a line
    that says so where the log cannot be read.
    """
    container = _that_matters(pod)
    try:
        return _read_log(core, pod, container, lines, _crashed_before(container))
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        if isinstance(error, ApiException) and error.status == 400:  # it has not started
            return []
        return [f"the log of container {container.name} cannot be read: {_reason(error)}"]


def _read_log(core: CoreV1Api, pod: V1Pod, container: V1ContainerStatus, lines: int, previous: bool) -> list[str]:
    place = {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "container": container.name}
    try:  # undecoded, because the client takes a log that happens to be JSON apart
        reply = core.read_namespaced_pod_log(**place, tail_lines=lines, previous=previous, _preload_content=False)
    except ApiException as error:
        if previous and error.status in (400, 404):  # the crashed instance's log is gone
            return _read_log(core, pod, container, lines, previous=False)
        raise
    return reply.data.decode(errors="replace").splitlines()


def _containers(pod: V1Pod) -> list[V1ContainerStatus]:
    """Init containers in their order, then `main`, then the others."""
    main_first = sorted(pod.status.container_statuses or [], key=lambda c: c.name != MAIN)
    return [*(pod.status.init_container_statuses or []), *main_first]


def _that_matters(pod: V1Pod) -> V1ContainerStatus:
    found = _containers(pod)
    if not found:  # nothing is known of them yet
        return V1ContainerStatus(name=pod.spec.containers[0].name, image="", image_id="", ready=False, restart_count=0)
    init = {c.name for c in pod.status.init_container_statuses or []}
    failing = [c for c in found if _container_trouble(pod, c)]
    for wanted in (
        [c for c in failing if c.name in init],
        [c for c in found if c.name == MAIN],
        failing,
        [c for c in found if c.name not in init],
    ):
        if wanted:
            return wanted[0]
    return found[0]


def _container_trouble(pod: V1Pod, container: V1ContainerStatus) -> str | None:
    state = container.state or V1ContainerState()
    name = f"container {container.name}"
    if state.waiting and state.waiting.reason in NOT_PULLED:
        image, why = _spec(pod, container.name).image, state.waiting.message or state.waiting.reason
        return (
            f"the image {image} cannot be pulled: {why}. Is its name right, is it there (make kind-up loads ours into "
            "kind, make images-push REGISTRY=... puts them into a registry), and may this cluster pull it (a private "
            "registry wants imagePullSecrets)?"
        )
    if state.waiting and state.waiting.reason == "CreateContainerConfigError":
        return (
            f"{name} cannot be set up: {state.waiting.message}. Make what is missing "
            "(manifests/create-secrets.sh makes the Secrets, the overlays in manifests/ the ConfigMaps)."
        )
    if state.waiting and state.waiting.reason in ("CreateContainerError", "RunContainerError"):
        return f"{name} cannot be started: {state.waiting.message}"
    if state.terminated and state.terminated.exit_code:
        return _end_of_container(pod, container, state.terminated)
    if _crashed_before(container) and not container.ready:
        end = _end_of_container(pod, container, container.last_state.terminated)
        return f"{end} It has been started again {container.restart_count} times."
    return None


def _crashed_before(container: V1ContainerStatus) -> bool:
    """Whether its log of now belongs to a new try, or to none yet."""
    last = container.last_state and container.last_state.terminated
    return bool(last and not (container.state and container.state.terminated))


def _end_of_container(pod: V1Pod, container: V1ContainerStatus, end) -> str:
    if end.reason == "OOMKilled":
        resources = _spec(pod, container.name).resources
        limit = ((resources and resources.limits) or {}).get("memory")
        at = f" at its limit of {limit}" if limit else ", as the node had none left"
        return f"container {container.name} ran out of memory{at}. Raise the limit, or give it less to do at a time."
    code = f"exit code {end.exit_code}"
    if end.exit_code in SIGNALS:
        code += f", {SIGNALS[end.exit_code]}"
    why = f": {end.message.strip()}" if end.message else ""
    return f"container {container.name} failed with {code}{why}."


def _end_of_pod(pod: V1Pod) -> str:
    why = (pod.status.message or "").strip().rstrip(".")
    if pod.status.reason == "Evicted":
        return f"the node evicted it: {why}. Free memory or disk on the node, or ask for more in its requests."
    if pod.status.reason == "DeadlineExceeded":
        limit = f" of {pod.spec.active_deadline_seconds} s" if pod.spec.active_deadline_seconds else ""
        return f"it was stopped at its time limit{limit}. Raise the limit, or give it less to do."
    return f"it failed with {pod.status.reason}: {why or 'no reason is given'}."


def _spec(pod: V1Pod, name: str):
    return next(c for c in [*(pod.spec.init_containers or []), *pod.spec.containers] if c.name == name)


def _when(event) -> datetime.datetime:
    seen = (event.series and event.series.last_observed_time, event.last_timestamp, event.event_time)
    return next(filter(None, (*seen, event.metadata.creation_timestamp)), LONG_AGO)


def _reason(error: Exception) -> str:
    return f"{error.status} {error.reason}" if isinstance(error, ApiException) else str(error)
