"""Print the progress of a run on a cluster as a local run does: each step, its end, and why a pod waits."""

import time

import urllib3
from kfp_server_api import V2beta1Run
from kubernetes.client import V1Pod
from kubernetes.client.rest import ApiException

from components.core.kubernetes_errors import error_text
from components.core.pod_diagnosis import trouble
from pipelines.cluster.api import Api
from pipelines.cluster.connect import Connection
from pipelines.cluster.run_pods import is_driver, pods_of, reason, step_of
from pipelines.cluster.steps import OVER, Step, steps_of
from pipelines.pipeline import folds_asked, steps_with

POLL_SECONDS = 3
PATIENCE_SECONDS = 20
"""A pod that waits longer than this is reported; many pods wait for a shorter time."""
SILENCE_SECONDS = 60
"""A run that starts no step within this time is reported."""


class Watch:
    """`steps` fills as the run proceeds."""

    def __init__(self, api: Api, cluster: Connection, run_id: str) -> None:
        self.api, self.run_id = api, run_id
        self.core, self.namespace = cluster.core, cluster.namespace
        self.steps: dict[str, Step] = {}
        self.count = len(steps_with(folds_asked()))
        self._last = ""
        self._ended: set[str] = set()
        self._tries: dict[str, int] = {}
        self._waiting: dict[tuple[str, str], float] = {}

    def until_over(self) -> V2beta1Run:
        """Print the run's progress until it is over; return the run."""
        silent_until = time.monotonic() + SILENCE_SECONDS
        while True:
            run = self.api.run(self.run_id)
            pods = self.pods()
            self.steps = steps_of(run)
            for name, step in self.steps.items():
                self._show(name, step, pods)
            if run.state in OVER:
                return run
            for pod in pods:
                self._show_waiting(pod)
            if not pods and not self.steps and time.monotonic() > silent_until:
                silent_until = float("inf")
                self._print("      no step has begun yet: do the workflow-controller and KFP's other pods run?")
            time.sleep(POLL_SECONDS)

    def pods(self) -> list[V1Pod]:
        """Return the run's pods; empty where they cannot be listed, which is printed once."""
        if self.core is None:
            return []
        try:
            return pods_of(self.core, self.namespace, self.run_id)
        except ApiException as error:
            if error.status in (401, 403):
                self._print(f"      pods in namespace {self.namespace} cannot be listed: {error_text(error)}")
                self.core = None
        except urllib3.exceptions.HTTPError:
            pass
        return []

    def _show(self, name: str, step: Step, pods: list[V1Pod]) -> None:
        if name not in self._tries:
            self._print(f"[{len(self._tries) + 1}/{self.count}] {name}")
            self._tries[name], self._last = 1, name
        prefix = "      " if name == self._last else f"      {name} "
        if step.tries > self._tries[name]:
            self._tries[name] = step.tries
            tries = [pod for pod in pods if step_of(pod) == name and not is_driver(pod)]
            failed = [pod for pod in tries[: step.tries - 1] if pod.status.phase == "Failed"]
            why = f": {reason(self.core, failed[-1])}" if failed else ""
            self._print(f"{prefix}try {step.tries}; the previous try failed{why}")
        if step.state != "running" and name not in self._ended:
            self._ended.add(name)
            self._print(f"{prefix}{'from cache' if step.cached else f'{step.state} in {step.seconds:.1f} s'}")

    def _show_waiting(self, pod: V1Pod) -> None:
        why = trouble(pod) if pod.status.phase == "Pending" else None
        if why is None:
            return
        key = (pod.metadata.uid, why.partition(":")[0])
        since = self._waiting.setdefault(key, time.monotonic())
        if time.monotonic() - since >= PATIENCE_SECONDS:
            self._waiting[key] = float("inf")
            self._print(f"      {step_of(pod) or pod.metadata.name} waits: {why}")

    @staticmethod
    def _print(line: str) -> None:
        print(line, flush=True)
