"""Print the logs of a run's pods, or the logs that KFP archived where the pods are gone."""

import time
from collections.abc import Callable, Iterable, Iterator

import urllib3
from kubernetes.client import CoreV1Api, V1Pod
from kubernetes.client.rest import ApiException

from components.core.errors import StepError
from components.core.kubernetes_errors import error_text
from components.core.pod_diagnosis import trouble
from pipelines.cluster.api import Api
from pipelines.cluster.archived_logs import archived_logs
from pipelines.cluster.connect import Connection
from pipelines.cluster.run_pods import is_driver, pods_of, step_of
from pipelines.cluster.step_log_lines import own_lines
from pipelines.cluster.steps import OVER
from pipelines.pipeline import EVERY_STEP, STEP_HEADING

POLL_SECONDS, QUIET_SECONDS = 2, 600
LineFilter = Callable[[Iterable[str]], Iterable[str]]


def print_pod_logs(cluster: Connection, run_id: str, step: str, follow: bool, raw: bool) -> None:
    """Print the log of each step's pod, or of one step; with `follow` until the run is over.

    Raises:
        StepError: no kube context, no right to read the pods, or no log.
    """
    if cluster.core is None:
        raise StepError("logs are read from the cluster itself: set KUBE_CONTEXT to its kube context.")
    line_filter: LineFilter = (lambda lines: lines) if raw else own_lines
    api = Api(cluster.kfp_url, kind=cluster.target == "kind") if follow else None
    steps = [step] if step else list(EVERY_STEP)
    shown: set[str] = set()
    while True:
        over = api is None or api.run(run_id).state in OVER
        for pod in _step_pods(cluster, run_id, steps):
            if pod.metadata.uid not in shown and (over or pod.status.phase != "Pending"):
                shown.add(pod.metadata.uid)
                _print_log(cluster.core, pod, follow, line_filter)
        if over:
            break
        time.sleep(POLL_SECONDS)
    if not shown:
        _print_archived_logs(cluster, run_id, steps, step, line_filter)


def _print_archived_logs(
    cluster: Connection, run_id: str, steps: list[str], step: str, line_filter: LineFilter
) -> None:
    no_pods = f"there are no pods of {step or 'the run'} in namespace {cluster.namespace} (run {run_id})"
    try:
        found = archived_logs(cluster, run_id, steps)
    except StepError as error:
        raise StepError(f"{no_pods}, and the archived logs cannot be read: {error}") from error
    if not found:
        raise StepError(
            f"{no_pods}, and KFP has no archived log: the step came from cache, has not begun, or failed and its pod "
            "was deleted, as clusters do some time after the end."
        )
    for log in found:
        print(f"{STEP_HEADING} {log.step} (its pod is gone: from {log.address})")
        print("\n".join(line_filter(log.text.splitlines())), flush=True)


def _step_pods(cluster: Connection, run_id: str, steps: list[str]) -> list[V1Pod]:
    """Return the pods of these steps, in the order of the steps."""
    try:
        pods = pods_of(cluster.core, cluster.namespace, run_id)
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        raise StepError(
            f"pods in namespace {cluster.namespace} of {cluster.context} cannot be listed: {error_text(error)}. "
            f"Does kubectl --context {cluster.context} -n {cluster.namespace} get pods work?"
        ) from error
    by_step = [(step_of(pod), pod) for pod in pods if not is_driver(pod)]
    return [pod for step in steps for name, pod in by_step if name == step]


def _print_log(core: CoreV1Api, pod: V1Pod, follow: bool, line_filter: LineFilter) -> None:
    print(f"{STEP_HEADING} {step_of(pod)} ({pod.metadata.name})", flush=True)
    last, printed = "", False
    while True:  # a stream may break off while the step still runs; lines before `last` were printed already
        for line in _stream(core, pod, follow):
            time_stamp, _, text = line.partition(" ")
            if time_stamp > last:
                last = time_stamp
                for shown in line_filter([text]):
                    printed = True
                    print(shown, flush=True)
        if not follow or _has_ended(core, pod):
            break
        time.sleep(POLL_SECONDS)
    if not printed:
        print(trouble(pod) or "(no line of the step yet; RAW=1 shows the lines of KFP)", flush=True)


def _stream(core: CoreV1Api, pod: V1Pod, follow: bool) -> Iterator[str]:
    """Yield the lines of the log of the container `main`, each with its time stamp; nothing before it starts."""
    container = {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "container": "main"}
    options = {"follow": follow, "timestamps": True, "_preload_content": False, "_request_timeout": (10, QUIET_SECONDS)}
    try:
        reply = core.read_namespaced_pod_log(**container, **options)
        rest = b""
        for chunk in reply.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        if isinstance(error, ApiException) and error.status not in (400, 404):
            raise StepError(f"the log of pod {pod.metadata.name} cannot be read: {error_text(error)}") from None


def _has_ended(core: CoreV1Api, pod: V1Pod) -> bool:
    try:
        phase = core.read_namespaced_pod(pod.metadata.name, pod.metadata.namespace).status.phase
    except ApiException as error:
        return error.status == 404
    except urllib3.exceptions.HTTPError:
        return False
    return phase in ("Succeeded", "Failed")
