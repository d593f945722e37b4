"""Calls to the Kubernetes API for a TrainJob: repeated while the server is unavailable, with refusals explained."""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from components.core.errors import StepError

MANIFESTS = "manifests/overlays/gpu-cluster"
PAUSE, TIMEOUT = 3, 600
"""Seconds: between two tries of a call, and for all tries."""


class NotFound(StepError):
    """The object does not exist."""


class AlreadyExists(StepError):
    """An object with this name exists."""


class NotStarted(StepError):
    """The pod has not started, so it has no log."""


class TrainJobApi:
    """Kubernetes calls for the TrainJob `name`."""

    def __init__(self, name: str, namespace: str, runtime: str):
        self.name, self.namespace, self.runtime = name, namespace, runtime

    def call(self, method: Callable[..., Any], *arguments: Any, timeout: float | None = None, **options: Any) -> Any:
        """Call a method of the Kubernetes client; try again if the server is unavailable or has an error of its own.

        Raises:
            NotFound, AlreadyExists, NotStarted: refusals that the caller may expect.
            StepError: another refusal, or the server did not answer in time.
        """
        until, warned = time.monotonic() + (TIMEOUT if timeout is None else timeout), False
        while True:
            try:
                return method(*arguments, **options, _request_timeout=30)
            except ApiException as error:
                if error.status not in (401, 429) and error.status < 500:
                    raise self._refusal(error) from error
                reason = _message(error)
            except HTTPError as error:
                reason = str(error)
            if time.monotonic() > until:
                raise StepError(f"the Kubernetes API does not answer: {reason[:300]}")
            if not warned:
                logging.warning("the Kubernetes API does not answer, trying again: %s", reason[:300])
                warned = True
            time.sleep(PAUSE)

    def _refusal(self, error: ApiException) -> StepError:
        message = _message(error)
        if error.status == 404:
            return NotFound("Kubeflow Trainer is not installed: this cluster has no TrainJobs. Install Trainer v2 "
                            "(www.kubeflow.org/docs/components/trainer), or use one node: NODES=1.")  # fmt: skip
        if error.status == 409:
            return AlreadyExists(message)
        if error.status == 400:
            return NotStarted(message)
        if "must be created before" in message:
            return StepError(f"the namespace {self.namespace} has no TrainingRuntime {self.runtime}. "
                             f"kubectl apply -f {MANIFESTS}/training-runtime.yaml")  # fmt: skip
        if error.status == 403 and "admission webhook" not in message:
            return StepError(f"the train step has no permission: {message}. kubectl apply -f "
                             f"{MANIFESTS}/multi-node-training.yaml (written for the namespace kubeflow and its "
                             "service account pipeline-runner).")  # fmt: skip
        return StepError(f"the cluster refuses the TrainJob {self.name}: {message}")


def _message(error: ApiException) -> str:
    """Return the API server's message."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return json.loads(error.body)["message"]
    return str(error.body or error.reason).strip()
