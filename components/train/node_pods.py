"""What the pods of a training's nodes report: why one does not start, and which failed first and why."""

from dataclasses import dataclass, field

from kubernetes.client import V1Pod

from components.train.failure_cause import MARK, PEER_IS_GONE

NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
NOT_STARTED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
LogLine = tuple[str, str]
"""Time and text."""


@dataclass(frozen=True)
class Problem:
    """Why a node does not start."""

    what: str
    why: str
    may_pass: bool
    """Whether it may go away by itself, for example when another job ends."""


@dataclass(frozen=True)
class Failure:
    """Why a node failed."""

    pod: V1Pod
    reason: str
    log: list[LogLine] = field(repr=False)


def number(pod: V1Pod) -> int:
    """Return the number of the pod's node, from 0."""
    return int((pod.metadata.annotations or {}).get("batch.kubernetes.io/job-completion-index", 0))


def start_problem(pod: V1Pod) -> Problem | None:
    """Return why a pod does not start; None if nothing is wrong."""
    node = f"node {number(pod)}"
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return Problem(f"no machine takes {node}", condition.message or condition.reason, True)
    for container in pod.status.container_statuses or []:
        waiting = container.state and container.state.waiting
        if waiting and waiting.reason in NOT_PULLED:
            what = f"{node} cannot pull the image {container.image}"
            return Problem(what, waiting.message or waiting.reason, False)
        if waiting and waiting.reason in NOT_STARTED:
            return Problem(f"{node} cannot start", waiting.message or waiting.reason, False)
    return None


def first_failure(pods: list[V1Pod], logs: list[list[LogLine]]) -> Failure | None:
    """Return the failure that caused the others; None if it is unknown.

    A node that Kubernetes ended comes first, then the earliest error, then the earliest error about a lost connection.
    """
    failures: list[tuple[int, str, Failure]] = []
    for pod, log in zip(pods, logs, strict=True):
        time, error = next(((time, text.partition(MARK)[2]) for time, text in log if MARK in text), ("", ""))
        ended_by_kubernetes, exit_code = _end(pod)
        if ended_by_kubernetes:
            failures.append((0, time, Failure(pod, ended_by_kubernetes, log)))
        elif error:
            failures.append((2 if PEER_IS_GONE.search(error) else 1, time, Failure(pod, error, log)))
        elif exit_code:
            failures.append((3, time, Failure(pod, f"exit code {exit_code}; the lines above show why", log)))
    return min(failures, key=lambda failure: failure[:2])[2] if failures else None


def _end(pod: V1Pod) -> tuple[str, int]:
    """Return why Kubernetes ended a pod ("" if it did not), and its exit code."""
    if pod.status.phase == "Failed" and pod.status.reason:
        return f"Kubernetes ended it: {pod.status.reason}: {pod.status.message or 'without a message'}", 0
    for container in pod.status.container_statuses or []:
        if ended := container.state and container.state.terminated:
            if ended.reason == "OOMKilled":
                return "out of memory. Lower image_size, batch_size or base_channels", ended.exit_code
            return "", ended.exit_code
    return "", 0
