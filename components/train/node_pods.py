"""What the pods of a training's nodes have to say: why one does not start, and which of them failed first and why."""

from kubernetes.client import V1Pod

from components.train.launch import MARK, PEER_IS_GONE

NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
NOT_STARTED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def number(pod: V1Pod) -> int:
    return int((pod.metadata.annotations or {}).get("batch.kubernetes.io/job-completion-index", 0))


def trouble(pod: V1Pod) -> tuple[str, str, bool] | None:
    """What keeps a pod from starting, why, and whether time may mend it."""
    where = f"node {number(pod)}"
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"no machine takes {where}", condition.message or condition.reason, True
    for container in pod.status.container_statuses or []:
        waiting = container.state and container.state.waiting
        if waiting and waiting.reason in NOT_PULLED:
            return f"{where} cannot pull the image {container.image}", waiting.message or waiting.reason, False
        if waiting and waiting.reason in NOT_STARTED:
            return f"{where} cannot start", waiting.message or waiting.reason, False
    return None


def first_failure(pods: list[V1Pod], logs: list[list[tuple[str, str]]]) -> tuple:
    """(pod, its log, reason) of the failure that caused the others; (None, [], "") where none is known.

    First comes what Kubernetes itself ended, then the earliest error, then the earliest that blames a peer.
    """
    found = []
    for pod, lines in zip(pods, logs, strict=True):
        at, told = next(((at, text.partition(MARK)[2]) for at, text in lines if MARK in text), ("", ""))
        killed, code = _end(pod)
        if killed:
            found.append((0, at, pod, lines, killed))
        elif told:
            found.append((2 if PEER_IS_GONE.search(told) else 1, at, pod, lines, told))
        elif code:
            found.append((3, at, pod, lines, f"exit code {code}; the lines above say why"))
    return min(found, key=lambda one: one[:2])[2:] if found else (None, [], "")


def _end(pod: V1Pod) -> tuple[str, int]:
    """What Kubernetes ended a pod for, if it did; and its exit code."""
    if pod.status.phase == "Failed" and pod.status.reason:
        return f"Kubernetes ended it: {pod.status.reason}: {pod.status.message or 'no more is said'}", 0
    for container in pod.status.container_statuses or []:
        if ended := container.state and container.state.terminated:
            if ended.reason == "OOMKilled":
                return "out of memory. Lower image_size, batch_size or base_channels", ended.exit_code
            return "", ended.exit_code
    return "", 0
