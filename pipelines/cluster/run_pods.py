"""The pods of a run: the step of each, and the report on one that failed."""

import re

from kubernetes.client import CoreV1Api, V1Pod

from components.core import pod_diagnosis
from components.core.step import ERROR_MARK
from pipelines.cluster.step_log_lines import own_lines
from pipelines.cluster.timeouts import TIMEOUT_SECONDS
from pipelines.pipeline import EVERY_STEP

LAST_LINES = 30
READ_LINES = 500
"""Lines to read for LAST_LINES of the step itself: KFP adds many lines at the end."""


def pods_of(core: CoreV1Api, namespace: str, run_id: str) -> list[V1Pod]:
    """Return the run's pods, the oldest first."""
    found = core.list_namespaced_pod(
        namespace, label_selector=f"pipeline/runid={run_id}", _request_timeout=TIMEOUT_SECONDS
    )
    return sorted(found.items, key=lambda pod: pod.metadata.creation_timestamp)


def step_of(pod: V1Pod) -> str | None:
    """Return the step of a pod, also of a driver's pod; None for a pod of the whole run."""
    name = (pod.metadata.labels or {}).get("app.kubernetes.io/component")
    if name is None:
        node = (pod.metadata.annotations or {}).get("workflows.argoproj.io/node-name", "")
        name = re.sub(r"\(\d+\)$", "", node).rpartition(".")[2].removesuffix("-driver")
    return name if name in EVERY_STEP else None


def is_driver(pod: V1Pod) -> bool:
    """Return whether it is KFP's driver, which runs before the step's own pod."""
    return "app.kubernetes.io/component" not in (pod.metadata.labels or {})


def error_lines(step: str, log: list[str]) -> list[str]:
    """Return the last error message in a step's log, from `ERROR <step>: ` on; empty where it has none."""
    starts = [n for n, line in enumerate(log) if line.startswith(f"{ERROR_MARK} {step}: ")]
    if not starts:
        return []
    first, *more = log[starts[-1] :]
    return [first.removeprefix(f"{ERROR_MARK} "), *more]


def last_own_lines(core: CoreV1Api, pod: V1Pod) -> list[str]:
    """Return the last lines that the step itself wrote; of a driver, all its last lines."""
    log = pod_diagnosis.log_end(core, pod, READ_LINES)
    return (log if is_driver(pod) else list(own_lines(log)))[-LAST_LINES:]


def reason(core: CoreV1Api, pod: V1Pod) -> str:
    """Return why a pod failed, in a line: the step's own error, or else the diagnosis of the pod."""
    step = step_of(pod) or ""
    error = error_lines(step, last_own_lines(core, pod))
    return error[0].removeprefix(f"{step}: ") if error else pod_diagnosis.trouble(pod) or "the reason is unknown"


def report(core: CoreV1Api, pod: V1Pod) -> tuple[list[str], list[str]]:
    """Return the lines to print of a failed pod, and the error message."""
    step = step_of(pod) or pod.metadata.name
    log = last_own_lines(core, pod)
    error = error_lines(step, log)
    shown = [line for line in log if not error or not line.startswith(f"{ERROR_MARK} {step}: ")]
    found = pod_diagnosis.events(core, pod, warnings_only=pod_diagnosis.has_started(pod))
    events = [f"events of pod {pod.metadata.name}:", *(f"  {line}" for line in found)]
    return [*shown, *(events if len(events) > 1 else [])], error or [
        f"{step}: {pod_diagnosis.trouble(pod) or 'failed'}"
    ]
