"""The pods of a run: which step each belongs to, and what a failed one says of its end."""

import re

from kubernetes.client import CoreV1Api, V1Pod

from components.core.step import ERROR_MARK
from pipelines.cluster import pod_diagnosis
from pipelines.cluster.step_log_lines import own_lines
from pipelines.pipeline import STEPS

LAST_LINES = 30
READ_LINES = 500
"""So many lines of a log are read for LAST_LINES of the step's own: what KFP says at the end is long."""
TIMEOUT_SECONDS = (10, 60)  # to connect, to answer


def pods_of(core: CoreV1Api, namespace: str, run_id: str) -> list[V1Pod]:
    """The run's pods, the oldest first."""
    found = core.list_namespaced_pod(
        namespace, label_selector=f"pipeline/runid={run_id}", _request_timeout=TIMEOUT_SECONDS
    )
    return sorted(found.items, key=lambda pod: pod.metadata.creation_timestamp)


def step_of(pod: V1Pod) -> str | None:
    """The step of a pod, or of the driver's pod before it; None for what belongs to the whole run."""
    name = (pod.metadata.labels or {}).get("app.kubernetes.io/component")
    if name is None:
        node = (pod.metadata.annotations or {}).get("workflows.argoproj.io/node-name", "")
        name = re.sub(r"\(\d+\)$", "", node).rpartition(".")[2].removesuffix("-driver")
    return name if name in STEPS else None


def is_driver(pod: V1Pod) -> bool:
    return "app.kubernetes.io/component" not in (pod.metadata.labels or {})


def error_lines(step: str, log: list[str]) -> list[str]:
    """The last words of a step in its own lines, which begin with `ERROR <step>: `; empty where it had none."""
    starts = [n for n, line in enumerate(log) if line.startswith(f"{ERROR_MARK} {step}: ")]
    if not starts:
        return []
    first, *more = log[starts[-1] :]
    return [first.removeprefix(f"{ERROR_MARK} "), *more]


def own_end(core: CoreV1Api, pod: V1Pod) -> list[str]:
    """The last of the step's own lines; of a driver, which is KFP's alone, its last lines."""
    log = pod_diagnosis.log_end(core, pod, READ_LINES)
    return (log if is_driver(pod) else list(own_lines(log)))[-LAST_LINES:]


def reason(core: CoreV1Api, pod: V1Pod) -> str:
    """Why a pod failed, in a line: the step's own words, else the cluster's."""
    step = step_of(pod) or ""
    said = error_lines(step, own_end(core, pod))
    return said[0].removeprefix(f"{step}: ") if said else pod_diagnosis.trouble(pod) or "it does not say why"


def report(core: CoreV1Api, pod: V1Pod) -> tuple[list[str], list[str]]:
    """What a person wants to see of a failed pod, and the message to end with."""
    step = step_of(pod) or pod.metadata.name
    log = own_end(core, pod)
    error = error_lines(step, log)
    shown = [line for line in log if not error or not line.startswith(f"{ERROR_MARK} {step}: ")]
    told = pod_diagnosis.events(core, pod, warnings_only=pod_diagnosis.has_started(pod))
    events = [f"events of pod {pod.metadata.name}:", *(f"  {line}" for line in told)]
    return [*shown, *(events if len(events) > 1 else [])], error or [
        f"{step}: {pod_diagnosis.trouble(pod) or 'failed'}"
    ]
