"""A TrainJob in Kubernetes: submit it, find it again, watch it, remove it, and explain why it failed."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from kubernetes import client, config
from kubernetes.client import V1Pod

from components.core.errors import StepError
from components.train import node_pods
from components.train.failure_cause import MARK
from components.train.node_pods import LogLine, Problem
from components.train.trainjob_api import AlreadyExists, NotFound, NotStarted, TrainJobApi

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
API_VERSION = f"{GROUP}/{VERSION}"
RUNTIME, CONTAINER = "dwi-stroke-train", "node"
POLL, HEARTBEAT, WARN_AFTER, GIVE_UP_AFTER, REMOVAL_TIMEOUT = 3, 60, 45, 300, 600
"""Seconds: between two looks, between two heartbeats, until the log names a node that does not start, until the step
fails if waiting does not help, and for the removal of an old TrainJob."""
LAST_LINES = 30


class TrainJob:
    """The TrainJob `name`, on `nodes` nodes."""

    def __init__(self, name: str, namespace: str, nodes: int):
        with contextlib.suppress(config.ConfigException):  # outside of a pod the client is configured already
            config.load_incluster_config()
        self.name, self.namespace, self.nodes = name, namespace, nodes
        self.api = TrainJobApi(name, namespace, RUNTIME)
        self.path = (GROUP, VERSION, namespace, PLURAL)
        self.jobs, self.core = client.CustomObjectsApi(), client.CoreV1Api()
        self.last_line_time = ""
        self.last_look: float | None = None
        self.warned: set[str] = set()
        self.stuck_since: float | None = None

    def adopt(self, owners: list[dict]) -> bool:
        """Take over the TrainJob of an earlier try of this step if it runs or is complete; else remove it.

        Raises:
            StepError: the old TrainJob cannot be removed.
        """
        job = self._get()
        if job and not job["metadata"].get("deletionTimestamp") and not _condition(job, "Failed"):
            logging.info("taking over the TrainJob %s of an earlier try", self.name)
            change = {"metadata": {"ownerReferences": owners}}
            self.api.call(self.jobs.patch_namespaced_custom_object, *self.path, self.name, change)
            return True
        if job:
            self.remove()
            self._wait_until_removed()
        return False

    def submit(self, body: dict) -> None:
        """Create the TrainJob."""
        with contextlib.suppress(AlreadyExists):  # the answer to an earlier request was lost
            self.api.call(self.jobs.create_namespaced_custom_object, *self.path, body)
        logging.info("TrainJob %s: %d nodes", self.name, self.nodes)

    def watch(self, beat: Callable[[], None]) -> None:
        """Show the first node's log until the TrainJob has ended; call `beat` once a minute.

        Raises:
            StepError: it failed, was deleted, or cannot start.
        """
        last_beat = time.monotonic()
        while True:
            if time.monotonic() - last_beat >= HEARTBEAT:
                last_beat = time.monotonic()
                try:
                    beat()
                except StepError as error:
                    logging.warning("the nodes may end, because the step's heartbeat could not be written: %s", error)
            job = self._get()
            if job is None:
                raise StepError(f"somebody deleted the TrainJob {self.name}. "
                                "Run again: training continues after its last epoch.")  # fmt: skip
            pods = self._pods()
            self._show_log(pods)
            if _condition(job, "Complete"):
                return
            if failed := _condition(job, "Failed"):
                raise self._explain_failure(failed, pods)
            self._check_start(job, pods)
            time.sleep(POLL)

    def remove(self) -> None:
        """Delete it, its pods first."""
        how = {"propagation_policy": "Foreground", "timeout": WARN_AFTER}
        with contextlib.suppress(NotFound):
            self.api.call(self.jobs.delete_namespaced_custom_object, *self.path, self.name, **how)

    def _wait_until_removed(self) -> None:
        until = time.monotonic() + REMOVAL_TIMEOUT
        while self._get():
            if time.monotonic() > until:
                raise StepError(f"the TrainJob {self.name} of an earlier try cannot be removed. Find out why: "
                                f"kubectl -n {self.namespace} describe trainjob {self.name}")  # fmt: skip
            time.sleep(POLL)

    def _get(self) -> dict | None:
        with contextlib.suppress(NotFound):
            return self.api.call(self.jobs.get_namespaced_custom_object, *self.path, self.name)
        return None

    def _pods(self) -> list[V1Pod]:
        """Return its pods, in the order of their nodes."""
        selector = f"jobset.sigs.k8s.io/jobset-name={self.name}"
        found = self.api.call(self.core.list_namespaced_pod, self.namespace, label_selector=selector)
        return sorted(found.items, key=node_pods.number)

    def _log(self, pod: V1Pod, **which: Any) -> list[LogLine]:
        """Return the log of a node; empty if there is none yet, or it is gone."""
        # _preload_content: otherwise the client parses a log that happens to be JSON
        which |= {"container": CONTAINER, "timestamps": True, "_preload_content": False}
        try:
            answer = self.api.call(self.core.read_namespaced_pod_log, pod.metadata.name, self.namespace, **which)
        except (NotFound, NotStarted):
            return []
        lines = answer.data.decode(errors="replace").splitlines()
        return [(stamp, text) for stamp, _, text in (line.partition(" ") for line in lines)]

    def _show_log(self, pods: list[V1Pod]) -> None:
        """Print the first node's new lines, without its error, which ends the step."""
        first = next((pod for pod in pods if node_pods.number(pod) == 0 and pod.status.phase != "Pending"), None)
        if first is None:
            return
        now = time.monotonic()
        recent = {} if self.last_look is None else {"since_seconds": int(now - self.last_look) + 30}
        for stamp, text in self._log(first, **recent):
            if stamp > self.last_line_time:
                self.last_line_time = stamp
                if MARK not in text:
                    print(text, flush=True)
        self.last_look = now

    def _explain_failure(self, failed: dict, pods: list[V1Pod]) -> StepError:
        """Return the error of the node that failed first. Print the end of its log if that was not shown."""
        condition = f"{failed.get('reason')}: {failed.get('message')}"
        logging.info("TrainJob %s: %s", self.name, condition)
        failure = node_pods.first_failure(pods, [self._log(pod, tail_lines=10 * LAST_LINES) for pod in pods])
        if failure is None:
            return StepError(f"the TrainJob {self.name} failed and left no log. {condition}")
        node = node_pods.number(failure.pod)
        if node:
            for _, text in failure.log[-LAST_LINES:]:
                print(f"node {node}: {text}", flush=True)
        return StepError(f"{failure.reason} (node {node} of {self.nodes})")

    def _check_start(self, job: dict, pods: list[V1Pod]) -> None:
        """Log why a node does not start.

        Raises:
            StepError: waiting does not help.
        """
        problem = next(filter(None, map(node_pods.start_problem, pods)), None) or self._missing_pod(job, pods)
        if problem is None:
            self.stuck_since = None
            return
        self.stuck_since = self.stuck_since or time.monotonic()
        stuck = time.monotonic() - self.stuck_since
        if stuck >= WARN_AFTER and problem.what not in self.warned:
            self.warned.add(problem.what)
            logging.warning("waiting: %s: %s", problem.what, problem.why)
        if stuck >= GIVE_UP_AFTER and not problem.may_pass:
            raise StepError(f"{problem.what}: {problem.why}")

    def _missing_pod(self, job: dict, pods: list[V1Pod]) -> Problem | None:
        """Return why there are fewer pods than nodes; None if there are not."""
        if job["spec"].get("suspend"):
            return Problem(f"the TrainJob {self.name} is suspended", "a queue waits for free resources", True)
        if len(pods) >= self.nodes:
            return None
        what = f"{len(pods)} of {self.nodes} nodes have a pod"
        events = self.api.call(self.core.list_namespaced_event, self.namespace, field_selector="type=Warning").items
        if own := [event.message for event in events if event.involved_object.name.startswith(self.name)]:
            return Problem(what, own[-1], True)
        command = f"kubectl -n {self.namespace} describe trainjob,jobset {self.name}"
        return Problem(what, f"the reason is unknown. Is Trainer's controller running? {command}", True)


def _condition(job: dict, kind: str) -> dict | None:
    conditions = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)
