"""`make pipeline-logs`: what the steps of a run said, here or on a cluster, so far or as it comes."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import urllib3
from kubernetes.client import CoreV1Api, V1Pod
from kubernetes.client.rest import ApiException

from components.core.step import StepError
from pipelines.atomic_write import read_json
from pipelines.cluster.api import Api
from pipelines.cluster.archived_logs import kept_logs
from pipelines.cluster.connect import TARGETS, Connection, connect
from pipelines.cluster.pod_diagnosis import trouble
from pipelines.cluster.run_pods import is_driver, pods_of, step_of
from pipelines.cluster.step_log_lines import own_lines
from pipelines.cluster.steps import OVER
from pipelines.local.kfp_local import STEP_MARK, is_running
from pipelines.pipeline import STEPS

POLL_SECONDS, QUIET_SECONDS = 2, 600
Filter = Callable[[Iterable[str]], Iterable[str]]


def pipeline_logs(run: str, step: str, follow: bool, target: str, state: Path, raw: bool = False) -> int:
    """Print the log of `run` (a run's name, or a KFP run id with TARGET; the last run where empty), or of one step.

    Of a pod's log the step's own lines are shown, with `raw` all of them. Returns the exit code.

    Raises:
        StepError: no such run or step, or its log is gone.
    """
    try:
        _logs(run, step, follow, target, state, raw)
    except KeyboardInterrupt:
        if not follow:
            raise
        print("\nno longer followed; the run itself goes on", flush=True)
        return 130
    return 0


def _logs(run: str, step: str, follow: bool, target: str, state: Path, raw: bool) -> None:
    if step and step not in STEPS:
        raise StepError(f"unknown STEP '{step}'. Steps: {', '.join(STEPS)}.")
    summary = _which(run, target, state)
    if "kfp_run_id" not in summary:
        folder = state / "runs" / summary["run_id"]
        going = (lambda: is_running(state) and folder == _newest(state)) if follow else (lambda: False)
        _local(folder / "log.txt", step, going)
        return
    with connect(summary["target"], summary.get("kube_context") or "") as cluster:
        cluster.namespace = summary.get("namespace") or cluster.namespace
        _cluster(cluster, summary["kfp_run_id"], step, follow, (lambda lines: lines) if raw else own_lines)


def _which(run: str, target: str, state: Path) -> dict:
    """The summary of the run that is meant, or what is known of one that has none yet."""
    last = state / "last-run.json"
    if not run and is_running(state):
        return {"run_id": _newest(state).name}
    if not run:
        if not last.exists():
            raise StepError("there was no run here yet. Start one: make pipeline-run")
        return read_json(last)
    folder = state / "runs" / run
    if (folder / "log.txt").exists():
        return {"run_id": run}
    if (folder / "summary.json").exists():
        return read_json(folder / "summary.json")
    if target in TARGETS:
        return {"kfp_run_id": run, "target": target}
    here = sorted(path.name for path in (state / "runs").glob("*"))[-5:]
    raise StepError(
        f"there was no run '{run}' here; the last ones: {', '.join(here) or 'none'}. For another's run on a cluster "
        "give its KFP run id and TARGET=kind or TARGET=cluster."
    )


def _newest(state: Path) -> Path:
    return max(path.parent for path in (state / "runs").glob("*/log.txt"))


def _local(log: Path, step: str, going: Callable[[], bool]) -> None:
    if not log.exists():
        raise StepError(f"{log} is gone.")
    current, shown = "", False
    for line in _lines(log, going):
        mark, _, name = line.partition(" ")
        if mark == STEP_MARK and name in STEPS:
            current = name
        if not step or current == step:
            print(line, flush=True)
            shown = True
    if not shown:
        raise StepError(f"{log} says nothing of {step or 'any step'}: it came from cache, or has not begun.")


def _lines(log: Path, going: Callable[[], bool]) -> Iterator[str]:
    """The lines of a file, and while `going` those still to come."""
    with log.open() as text:
        line = ""
        while True:
            more = going()
            while piece := text.readline():
                line += piece
                if line.endswith("\n"):
                    yield line.rstrip("\n")
                    line = ""
            if not more:
                break
            time.sleep(0.2)
        if line:
            yield line


def _cluster(cluster: Connection, run_id: str, step: str, follow: bool, of: Filter) -> None:
    if cluster.core is None:
        raise StepError("logs are read from the cluster itself: set KUBE_CONTEXT to its kube context.")
    api = Api(cluster.kfp_url, kind=cluster.target == "kind") if follow else None
    wanted = [step] if step else list(STEPS)
    shown: set[str] = set()
    while True:
        over = api is None or api.run(run_id).state in OVER
        for pod in _pods(cluster, run_id, wanted):
            if pod.metadata.uid not in shown and (over or pod.status.phase != "Pending"):
                shown.add(pod.metadata.uid)
                _show(cluster.core, pod, follow, of)
        if over:
            break
        time.sleep(POLL_SECONDS)
    if not shown:
        _show_kept(cluster, run_id, wanted, step, of)


def _show_kept(cluster: Connection, run_id: str, wanted: list[str], step: str, of: Filter) -> None:
    """Print what KFP keeps of the logs where the pods are gone."""
    none = f"there are no pods of {step or 'the run'} in namespace {cluster.namespace} (run {run_id})"
    try:
        kept = kept_logs(cluster, run_id, wanted)
    except StepError as error:
        raise StepError(f"{none}, and their logs cannot be read: {error}") from error
    if not kept:
        raise StepError(
            f"{none}, and KFP keeps no log: it came from cache, has not begun, or failed and its pod was deleted, as "
            "clusters do some time after the end."
        )
    for log in kept:
        print(f"{STEP_MARK} {log.step} (its pod is gone: from {log.address})")
        print("\n".join(of(log.text.splitlines())), flush=True)


def _pods(cluster: Connection, run_id: str, wanted: list[str]) -> list[V1Pod]:
    try:
        pods = pods_of(cluster.core, cluster.namespace, run_id)
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        said = f"{error.status} {error.reason}" if isinstance(error, ApiException) else str(error).rpartition(">: ")[2]
        raise StepError(
            f"pods in namespace {cluster.namespace} of {cluster.context} cannot be listed: {said}. "
            f"Does kubectl --context {cluster.context} -n {cluster.namespace} get pods work?"
        ) from error
    ours = [pod for pod in pods if step_of(pod) in wanted and not is_driver(pod)]
    return sorted(ours, key=lambda pod: wanted.index(step_of(pod)))


def _show(core: CoreV1Api, pod: V1Pod, follow: bool, of: Filter) -> None:
    print(f"{STEP_MARK} {step_of(pod)} ({pod.metadata.name})", flush=True)
    last, said = "", False
    while True:  # a stream may break off while the step goes on: what was shown is not shown again
        for line in _stream(core, pod, follow):
            stamp, _, text = line.partition(" ")
            if stamp > last:
                last = stamp
                for own in of([text]):
                    said = True
                    print(own, flush=True)
        if not follow or _has_ended(core, pod):
            break
        time.sleep(POLL_SECONDS)
    if not said:
        print(trouble(pod) or "(it has said nothing yet; RAW=1 shows what KFP says)", flush=True)


def _stream(core: CoreV1Api, pod: V1Pod, follow: bool) -> Iterator[str]:
    place = {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "container": "main"}
    try:
        how = {"follow": follow, "timestamps": True, "_preload_content": False, "_request_timeout": (10, QUIET_SECONDS)}
        reply = core.read_namespaced_pod_log(**place, **how)
        rest = b""
        for chunk in reply.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        if isinstance(error, ApiException) and error.status not in (400, 404):
            raise StepError(
                f"the log of pod {pod.metadata.name} cannot be read: {error.status} {error.reason}"
            ) from None


def _has_ended(core: CoreV1Api, pod: V1Pod) -> bool:
    try:
        return core.read_namespaced_pod(pod.metadata.name, pod.metadata.namespace).status.phase in (
            "Succeeded",
            "Failed",
        )
    except ApiException as error:
        return error.status == 404
    except urllib3.exceptions.HTTPError:
        return False
