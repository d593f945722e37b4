"""The pods of a training's nodes: why one does not start, and which of them failed first and why."""

from kubernetes.client import V1Pod

from components.core.pod_diagnosis import Kind, diagnose
from components.train.launch import MARK, PEER_IS_GONE


def number(pod: V1Pod) -> int:
    """Return the number of the pod's node."""
    return int((pod.metadata.annotations or {}).get("batch.kubernetes.io/job-completion-index", 0))


def trouble(pod: V1Pod) -> tuple[str, str, bool] | None:
    """Return what keeps a pod from starting, why, and whether time may mend it."""
    found = diagnose(pod)
    if found and found.kind is Kind.NOT_SCHEDULED:
        return f"node {number(pod)} has no machine", found.text, True
    if found and found.kind is Kind.CANNOT_START:
        return f"node {number(pod)} cannot start", found.text, False
    return None


def first_failure(pods: list[V1Pod], logs: list[list[tuple[str, str]]]) -> tuple:
    """Return (pod, its log, reason) of the failure that caused the others; (None, [], "") where no cause is found.

    A pod that Kubernetes ended comes first, then the earliest error, then the earliest error that blames a peer.
    """
    found = []
    for pod, lines in zip(pods, logs, strict=True):
        time, error = next(((time, text.partition(MARK)[2]) for time, text in lines if MARK in text), ("", ""))
        end = diagnose(pod)
        if end and end.kind is Kind.ENDED_BY_CLUSTER:
            found.append((0, time, pod, lines, end.text))
        elif error:
            found.append((2 if PEER_IS_GONE.search(error) else 1, time, pod, lines, error))
        elif end and end.kind is Kind.FAILED:
            found.append((3, time, pod, lines, f"{end.text} The lines above say why."))
    return min(found, key=lambda one: one[:2])[2:] if found else (None, [], "")
