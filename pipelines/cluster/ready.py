"""Wait until everything in some namespaces is ready, with progress, and say what is not and why."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import urllib3
from kubernetes import client, config
from kubernetes.client.rest import ApiException

from components.core.step import StepError
from pipelines.cluster import pod_diagnosis

PAUSE_SECONDS = 5
LIMIT_SECONDS = 90 * 60  # the images are several GB, and lines are slow
STUCK_SECONDS = 10 * 60  # a crashing container rests up to 5 minutes, and then takes its time to start
REPEAT_SECONDS = 60
LOG_LINES = 15


@dataclass(frozen=True)
class Workload:
    """A Deployment, a StatefulSet or a Job, with those of its pods that are not ready."""

    name: str
    ready: bool
    pods: tuple[client.V1Pod, ...] = ()
    failed: bool = False

    @property
    def trouble(self) -> str | None:
        return next(filter(None, map(pod_diagnosis.trouble, self.pods)), None)


class Cluster:
    """What the API server of a kube context says."""

    def __init__(self, context: str):
        settings = client.Configuration()
        config.load_kube_config(os.environ.get("KUBECONFIG"), context=context, client_configuration=settings)
        settings.proxy = None  # it is on this machine
        settings.retries = False
        api = client.ApiClient(settings)
        self.core, self.apps, self.batch = client.CoreV1Api(api), client.AppsV1Api(api), client.BatchV1Api(api)

    def workloads(self, namespaces: tuple[str, ...]) -> list[Workload]:
        return [workload for namespace in namespaces for workload in self._of(namespace)]

    def _of(self, namespace: str) -> Iterator[Workload]:
        there = self.core.list_namespaced_pod(namespace).items
        for kind in (self.apps.list_namespaced_deployment, self.apps.list_namespaced_stateful_set):
            for found in kind(namespace).items:
                yield Workload(_name(found), _is_ready(found), _unready(found, there))
        for job in self.batch.list_namespaced_job(namespace).items:
            failed = any(c.type == "Failed" and c.status == "True" for c in job.status.conditions or [])
            yield Workload(_name(job), bool(job.status.succeeded), _unready(job, there), failed)

    def explain(self, workload: Workload) -> list[str]:
        """Why it is not ready: the trouble, the newest events, the end of the log."""
        lines = [f"  {workload.name}: {workload.trouble or 'no pod of it is ready'}"]
        for pod in workload.pods[:1]:
            lines += [f"      {line}" for line in pod_diagnosis.events(self.core, pod)[-3:]]
            if log := pod_diagnosis.log_end(self.core, pod, LOG_LINES):
                lines += ["    its log ends:", *(f"      {line}" for line in log)]
        return lines

    def newest_event(self, workload: Workload) -> str:
        found = pod_diagnosis.events(self.core, workload.pods[0]) if workload.pods else []
        return found[-1].split(" ", 2)[-1] if found else "no pod of it is there yet"


def wait_until_ready(context: str, namespaces: tuple[str, ...]) -> int:
    """How many workloads there are, once all of them are ready.

    Raises:
        StepError: a Job failed; or nothing gets on any more, or not in time: what is not ready, and why.
    """
    cluster, began = Cluster(context), time.monotonic()
    shown, shown_at, stuck_since = None, began, None
    while True:
        now = time.monotonic()
        try:
            found = cluster.workloads(namespaces)
            waiting = [workload for workload in found if not workload.ready]
            lines = [f"{w.name}: {w.trouble or cluster.newest_event(w)}" for w in waiting] or ["nothing is there yet"]
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            found, waiting, lines = [], [], [f"the cluster's API server does not answer: {error}"]
        if found and not waiting:
            return len(found)
        if lines != shown or now - shown_at > REPEAT_SECONDS:
            print(
                f"      {len(found) - len(waiting)} of {len(found)} ready after {(now - began) / 60:.0f} min",
                flush=True,
            )
            for line in lines if lines != shown else []:
                print(f"        {line}", flush=True)
            shown, shown_at = lines, now
        hopeless = all(workload.trouble for workload in waiting)
        stuck_since = (stuck_since or now) if hopeless else None
        stuck = stuck_since is not None and now - stuck_since > STUCK_SECONDS
        if any(workload.failed for workload in waiting) or stuck or now - began > LIMIT_SECONDS:
            raise StepError(_not_ready(cluster, waiting) if waiting else lines[0])
        time.sleep(PAUSE_SECONDS)


def _not_ready(cluster: Cluster, waiting: list[Workload]) -> str:
    lines = [f"Not ready ({len(waiting)}):"]
    for workload in waiting:
        lines += cluster.explain(workload)
    return "\n".join([*lines, "Mend it and run make kind-up again: it goes on from here."])


def _name(found) -> str:
    return f"{found.metadata.namespace}/{found.metadata.name}"


def _is_ready(found) -> bool:
    wanted, status = found.spec.replicas, found.status
    seen = (status.observed_generation or 0) >= (found.metadata.generation or 0)
    updated, ready = (status.updated_replicas or 0), (status.ready_replicas or 0)
    return seen and min(updated, ready) >= wanted and (status.replicas or 0) <= wanted


def _unready(found, there: list[client.V1Pod]) -> tuple[client.V1Pod, ...]:
    """Its pods that are not ready, those in trouble first, then the newest."""
    wanted = found.spec.selector.match_labels.items()
    own = [p for p in there if wanted <= (p.metadata.labels or {}).items() and p.status.phase != "Succeeded"]
    own = [p for p in own if not any(c.type == "Ready" and c.status == "True" for c in p.status.conditions or [])]
    own.sort(key=lambda p: str(p.metadata.creation_timestamp), reverse=True)
    return tuple(sorted(own, key=lambda p: not pod_diagnosis.trouble(p)))
