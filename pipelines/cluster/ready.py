"""Wait until all workloads of some namespaces are ready; print progress, and why one is not ready."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import urllib3
from kubernetes import client, config
from kubernetes.client.rest import ApiException

from components.core import pod_diagnosis
from components.core.errors import StepError

PAUSE_SECONDS = 5
LIMIT_SECONDS = 90 * 60  # the images have several GB, and connections are slow
STUCK_SECONDS = 10 * 60  # Kubernetes waits up to 5 minutes before it restarts a crashing container
REPEAT_SECONDS = 60
LOG_LINES = 15


@dataclass(frozen=True)
class Workload:
    """A Deployment, a StatefulSet or a Job, with its pods that are not ready."""

    name: str
    ready: bool
    pods: tuple[client.V1Pod, ...] = ()
    failed: bool = False

    @property
    def trouble(self) -> str | None:
        return next(filter(None, map(pod_diagnosis.trouble, self.pods)), None)


class KubernetesApi:
    """The API server of a kube context on this machine."""

    def __init__(self, context: str) -> None:
        settings = client.Configuration()
        config.load_kube_config(os.environ.get("KUBECONFIG"), context=context, client_configuration=settings)
        settings.proxy = None
        settings.retries = False
        api = client.ApiClient(settings)
        self.core, self.apps, self.batch = client.CoreV1Api(api), client.AppsV1Api(api), client.BatchV1Api(api)

    def workloads(self, namespaces: tuple[str, ...]) -> list[Workload]:
        """Return the workloads of these namespaces."""
        return [workload for namespace in namespaces for workload in self._workloads_in(namespace)]

    def _workloads_in(self, namespace: str) -> Iterator[Workload]:
        pods = self.core.list_namespaced_pod(namespace).items
        for list_workloads in (self.apps.list_namespaced_deployment, self.apps.list_namespaced_stateful_set):
            for found in list_workloads(namespace).items:
                yield Workload(_name(found), _is_ready(found), _unready_pods(found, pods))
        for job in self.batch.list_namespaced_job(namespace).items:
            failed = any(c.type == "Failed" and c.status == "True" for c in job.status.conditions or [])
            yield Workload(_name(job), bool(job.status.succeeded), _unready_pods(job, pods), failed)

    def explain(self, workload: Workload) -> list[str]:
        """Return lines on why a workload is not ready: the diagnosis, the newest events, the end of the log."""
        lines = [f"  {workload.name}: {workload.trouble or 'none of its pods is ready'}"]
        for pod in workload.pods[:1]:
            lines += [f"      {line}" for line in pod_diagnosis.events(self.core, pod)[-3:]]
            if log := pod_diagnosis.log_end(self.core, pod, LOG_LINES):
                lines += ["    its log ends:", *(f"      {line}" for line in log)]
        return lines

    def newest_event(self, workload: Workload) -> str:
        """Return the newest event of a workload that is not ready."""
        found = pod_diagnosis.events(self.core, workload.pods[0]) if workload.pods else []
        return found[-1].split(" ", 2)[-1] if found else "it has no pod yet"


def wait_until_ready(context: str, namespaces: tuple[str, ...]) -> int:
    """Wait until all workloads of these namespaces are ready; return their number.

    Raises:
        StepError: a Job failed, or workloads make no progress or are too slow; with the reason for each.
    """
    api, start = KubernetesApi(context), time.monotonic()
    shown, shown_at, stuck_since = None, start, None
    while True:
        now = time.monotonic()
        try:
            found = api.workloads(namespaces)
            waiting = [workload for workload in found if not workload.ready]
            lines = [f"{w.name}: {w.trouble or api.newest_event(w)}" for w in waiting] or ["there is no workload yet"]
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            found, waiting, lines = [], [], [f"the cluster's API server does not answer: {error}"]
        if found and not waiting:
            return len(found)
        if lines != shown or now - shown_at > REPEAT_SECONDS:
            print(
                f"      {len(found) - len(waiting)} of {len(found)} ready after {(now - start) / 60:.0f} min",
                flush=True,
            )
            for line in lines if lines != shown else []:
                print(f"        {line}", flush=True)
            shown, shown_at = lines, now
        all_in_trouble = all(workload.trouble for workload in waiting)
        stuck_since = (stuck_since or now) if all_in_trouble else None
        stuck = stuck_since is not None and now - stuck_since > STUCK_SECONDS
        if any(workload.failed for workload in waiting) or stuck or now - start > LIMIT_SECONDS:
            raise StepError(_explain(api, waiting) if waiting else lines[0])
        time.sleep(PAUSE_SECONDS)


def _explain(api: KubernetesApi, waiting: list[Workload]) -> str:
    lines = [f"Not ready ({len(waiting)}):"]
    for workload in waiting:
        lines += api.explain(workload)
    return "\n".join([*lines, "Correct it and run make kind-up again: it continues from here."])


def _name(found) -> str:
    return f"{found.metadata.namespace}/{found.metadata.name}"


def _is_ready(found) -> bool:
    wanted, status = found.spec.replicas, found.status
    seen = (status.observed_generation or 0) >= (found.metadata.generation or 0)
    updated, ready = (status.updated_replicas or 0), (status.ready_replicas or 0)
    return seen and min(updated, ready) >= wanted and (status.replicas or 0) <= wanted


def _unready_pods(found, pods: list[client.V1Pod]) -> tuple[client.V1Pod, ...]:
    """Return the pods of a workload that are not ready: those in trouble first, then the newest."""
    wanted = found.spec.selector.match_labels.items()
    own = [p for p in pods if wanted <= (p.metadata.labels or {}).items() and p.status.phase != "Succeeded"]
    own = [p for p in own if not any(c.type == "Ready" and c.status == "True" for c in p.status.conditions or [])]
    own.sort(key=lambda p: str(p.metadata.creation_timestamp), reverse=True)
    return tuple(sorted(own, key=lambda p: not pod_diagnosis.trouble(p)))
