"""A TrainJob through the Kubernetes API: made, found again, watched and removed, and every refusal in words."""

import contextlib
import json
import logging
import time
from collections.abc import Callable

from kubernetes import client, config
from kubernetes.client import ApiException, V1Pod
from urllib3.exceptions import HTTPError

from components.core.step import StepError
from components.train import node_pods
from components.train.launch import MARK

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
API_VERSION = f"{GROUP}/{VERSION}"
RUNTIME, CONTAINER = "dwi-stroke-train", "node"
MANIFESTS = "manifests/overlays/gpu-cluster"
POLL, SIGN_OF_LIFE, SAID_AFTER, HOPELESS_AFTER, AWAY = 3, 60, 45, 300, 600
"""Seconds: between two looks, between two signs of life, until what does not start is said, until what time does not
mend is an error, and for how long the API server may not answer."""
LAST_LINES = 30


class TrainJob:
    """The TrainJob of this name, which has or is to have so many nodes."""

    def __init__(self, name: str, namespace: str, nodes: int):
        with contextlib.suppress(config.ConfigException):  # outside of a pod the client is set up already
            config.load_incluster_config()
        self.name, self.namespace, self.nodes = name, namespace, nodes
        self.place = (GROUP, VERSION, namespace, PLURAL)
        self.jobs, self.core = client.CustomObjectsApi(), client.CoreV1Api()
        self.logged, self.looked = "", None
        self.said, self.stuck_since = set(), None

    def adopt(self, owners: list[dict]) -> bool:
        """Take over what an earlier try of this step started, if it goes on or is done; else remove it."""
        job = self._get()
        if job and not job["metadata"].get("deletionTimestamp") and not _condition(job, "Failed"):
            logging.info("taking over the TrainJob %s of an earlier try", self.name)
            change = {"metadata": {"ownerReferences": owners}}
            self._ask(self.jobs.patch_namespaced_custom_object, *self.place, self.name, change)
            return True
        if job:
            self.remove()
            until = time.monotonic() + AWAY
            while self._get():
                if time.monotonic() > until:
                    raise StepError(f"the TrainJob {self.name} of an earlier try does not go away. See what holds it: "
                                    f"kubectl -n {self.namespace} describe trainjob {self.name}")  # fmt: skip
                time.sleep(POLL)
        return False

    def submit(self, body: dict) -> None:
        with contextlib.suppress(_AlreadyThere):  # the answer to an earlier try was lost
            self._ask(self.jobs.create_namespaced_custom_object, *self.place, body)
        logging.info("TrainJob %s: %d nodes", self.name, self.nodes)

    def watch(self, live: Callable[[], None]) -> None:
        """Show the first node's log until the TrainJob has ended; `live` is called once a minute.

        Raises:
            StepError: it failed, was deleted, or cannot start.
        """
        lived = time.monotonic()
        while True:
            if time.monotonic() - lived >= SIGN_OF_LIFE:
                lived = time.monotonic()
                try:
                    live()
                except StepError as error:
                    logging.warning("the nodes were not told that the step goes on: %s", error)
            job = self._get()
            if job is None:
                raise StepError(f"somebody deleted the TrainJob {self.name}. "
                                "Run again: it goes on from the last epoch.")  # fmt: skip
            pods = self._pods()
            self._show_log(pods)
            if _condition(job, "Complete"):
                return
            if failed := _condition(job, "Failed"):
                raise self._failure(failed, pods)
            self._say_what_is_stuck(job, pods)
            time.sleep(POLL)

    def remove(self) -> None:
        """Delete it, its pods first."""
        how = {"propagation_policy": "Foreground", "patience": SAID_AFTER}
        with contextlib.suppress(_NotThere):
            self._ask(self.jobs.delete_namespaced_custom_object, *self.place, self.name, **how)

    def _get(self) -> dict | None:
        with contextlib.suppress(_NotThere):
            return self._ask(self.jobs.get_namespaced_custom_object, *self.place, self.name)

    def _pods(self) -> list[V1Pod]:
        """Its pods, in the order of their nodes."""
        mine = f"jobset.sigs.k8s.io/jobset-name={self.name}"
        return sorted(self._ask(self.core.list_namespaced_pod, self.namespace, label_selector=mine).items,
                      key=node_pods.number)  # fmt: skip

    def _log(self, pod: V1Pod, **which) -> list[tuple[str, str]]:
        """(time, line) of a node's log; none where it has none yet, or none any more."""
        # undecoded, because the client takes a log that happens to be JSON apart
        which |= {"container": CONTAINER, "timestamps": True, "_preload_content": False}
        try:
            answer = self._ask(self.core.read_namespaced_pod_log, pod.metadata.name, self.namespace, **which)
        except (_NotThere, _NotStarted):
            return []
        lines = answer.data.decode(errors="replace").splitlines()
        return [(at, text) for at, _, text in (line.partition(" ") for line in lines)]

    def _show_log(self, pods: list[V1Pod]) -> None:
        """Print what the first node said since the last look; its error is for the end."""
        first = next((pod for pod in pods if node_pods.number(pod) == 0 and pod.status.phase != "Pending"), None)
        if first is None:
            return
        now = time.monotonic()
        recent = {} if self.looked is None else {"since_seconds": int(now - self.looked) + 30}
        for at, text in self._log(first, **recent):
            if at > self.logged:
                self.logged = at
                if MARK not in text:
                    print(text, flush=True)
        self.looked = now

    def _failure(self, failed: dict, pods: list[V1Pod]) -> StepError:
        """What ended the node that failed first; if its log was not on show, the end of that is printed."""
        why = f"{failed.get('reason')}: {failed.get('message')}"
        logging.info("TrainJob %s: %s", self.name, why)
        logs = [self._log(pod, tail_lines=10 * LAST_LINES) for pod in pods]
        pod, lines, reason = node_pods.first_failure(pods, logs)
        if pod is None:
            return StepError(f"the TrainJob {self.name} failed and left no log. {why}")
        which = node_pods.number(pod)
        if which:
            for _, text in lines[-LAST_LINES:]:
                print(f"node {which}: {text}", flush=True)
        return StepError(f"{reason} (node {which} of {self.nodes})")

    def _say_what_is_stuck(self, job: dict, pods: list[V1Pod]) -> None:
        trouble = next(filter(None, map(node_pods.trouble, pods)), None) or self._no_pod(job, pods)
        if trouble is None:
            self.stuck_since = None
            return
        what, why, time_may_mend_it = trouble
        self.stuck_since = self.stuck_since or time.monotonic()
        stuck = time.monotonic() - self.stuck_since
        if stuck >= SAID_AFTER and what not in self.said:
            self.said.add(what)
            logging.warning("waiting: %s: %s", what, why)
        if stuck >= HOPELESS_AFTER and not time_may_mend_it:
            raise StepError(f"{what}: {why}")

    def _no_pod(self, job: dict, pods: list[V1Pod]) -> tuple[str, str, bool] | None:
        if job["spec"].get("suspend"):
            return f"the TrainJob {self.name} is suspended", "a queue holds it back until there is room", True
        if len(pods) >= self.nodes:
            return None
        what = f"{len(pods)} of {self.nodes} nodes have a pod"
        events = self._ask(self.core.list_namespaced_event, self.namespace, field_selector="type=Warning").items
        if mine := [event.message for event in events if event.involved_object.name.startswith(self.name)]:
            return what, mine[-1], True
        look = f"kubectl -n {self.namespace} describe trainjob,jobset {self.name}"
        return what, f"nothing says why. Is Trainer's controller running? {look}", True

    def _ask(self, call, *arguments, patience: float | None = None, **options):
        """The API's answer; one that does not come, or is the server's own fault, is waited for.

        Raises:
            StepError: a refusal, as one of its kinds below where that may be no error; or no answer for too long.
        """
        until, told = time.monotonic() + (AWAY if patience is None else patience), False
        while True:
            try:
                return call(*arguments, **options, _request_timeout=30)
            except ApiException as error:
                if error.status not in (401, 429) and error.status < 500:
                    raise self._refusal(error) from error
                why = _message(error)
            except HTTPError as error:
                why = str(error)
            if time.monotonic() > until:
                raise StepError(f"the Kubernetes API does not answer: {why[:300]}")
            if not told:
                logging.warning("the Kubernetes API does not answer, asking again: %s", why[:300])
                told = True
            time.sleep(POLL)

    def _refusal(self, error: ApiException) -> StepError:
        said = _message(error)
        if error.status == 404:
            return _NotThere("Kubeflow Trainer is not installed: this cluster knows no TrainJob. Install Trainer v2 "
                             "(www.kubeflow.org/docs/components/trainer), or take one node: NODES=1.")  # fmt: skip
        if error.status == 409:
            return _AlreadyThere(said)
        if error.status == 400:
            return _NotStarted(said)
        if "must be created before" in said:
            return StepError(f"there is no TrainingRuntime {RUNTIME} in the namespace {self.namespace}. "
                             f"kubectl apply -f {MANIFESTS}/training-runtime.yaml")  # fmt: skip
        if error.status == 403 and "admission webhook" not in said:
            return StepError(f"the train step lacks a right: {said}. kubectl apply -f "
                             f"{MANIFESTS}/multi-node-training.yaml, which is for the namespace kubeflow and its "
                             "pipeline-runner.")  # fmt: skip
        return StepError(f"the cluster refuses the TrainJob {self.name}: {said}")


class _NotThere(StepError): ...


class _AlreadyThere(StepError): ...


class _NotStarted(StepError): ...


def _condition(job: dict, kind: str) -> dict | None:
    conditions = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def _message(error: ApiException) -> str:
    """The API server's own words."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return json.loads(error.body)["message"]
    return str(error.body or error.reason).strip()
