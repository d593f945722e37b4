"""What the pods of a training's nodes report: why one does not start, and which failed first and why."""

from dataclasses import dataclass, field

from kubernetes.client import V1Pod

from components.core.pod_diagnosis import Kind, diagnose
from components.train.failure_cause import MARK, PEER_IS_GONE

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
    found = diagnose(pod)
    if found and found.kind is Kind.NOT_SCHEDULED:
        return Problem(f"node {number(pod)} has no machine", found.text, may_pass=True)
    if found and found.kind is Kind.CANNOT_START:
        return Problem(f"node {number(pod)} cannot start", found.text, may_pass=False)
    return None


def first_failure(pods: list[V1Pod], logs: list[list[LogLine]]) -> Failure | None:
    """Return the failure that caused the others; None if it is unknown.

    A pod that Kubernetes ended comes first, then the earliest error, then the earliest error about a lost connection.
    """
    failures: list[tuple[int, str, Failure]] = []
    for pod, log in zip(pods, logs, strict=True):
        time, error = next(((time, text.partition(MARK)[2]) for time, text in log if MARK in text), ("", ""))
        end = diagnose(pod)
        if end and end.kind is Kind.ENDED_BY_CLUSTER:
            failures.append((0, time, Failure(pod, end.text, log)))
        elif error:
            failures.append((2 if PEER_IS_GONE.search(error) else 1, time, Failure(pod, error, log)))
        elif end and end.kind is Kind.FAILED:
            failures.append((3, time, Failure(pod, f"{end.text} The lines above say why.", log)))
    return min(failures, key=lambda failure: failure[:2])[2] if failures else None
