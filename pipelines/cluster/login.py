"""Read the login of a cluster's MLflow from its Secret."""

import base64
import os

from kubernetes.client import CoreV1Api
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from components.core.errors import StepError
from components.core.kubernetes_errors import error_text
from components.registry.tracking import TOKEN
from pipelines.cluster.kubernetes import MLFLOW_SECRET
from pipelines.cluster.timeouts import TIMEOUT_SECONDS


def use_login(core: CoreV1Api, namespace: str, context: str | None) -> None:
    """Set the login of the cluster's MLflow for the MLflow clients of this process and of its children.

    Raises:
        StepError: the Secret is missing, or the user has no right to read it.
    """
    try:
        secret = core.read_namespaced_secret(MLFLOW_SECRET, namespace, _request_timeout=TIMEOUT_SECONDS)
        token = base64.b64decode((secret.data or {})[TOKEN]).decode()
    except (ApiException, HTTPError, KeyError) as error:
        status = error.status if isinstance(error, ApiException) else 0
        advice = {
            403: "Ask for the right to read it, or set MLFLOW_TRACKING_URI and MLFLOW_TRACKING_TOKEN.",
            401: "Log in to the cluster again.",
        }.get(status, "Run manifests/create-secrets.sh, apply manifests/ (for kind: make kind-up) and try again.")
        reason = f"it has no {TOKEN}" if isinstance(error, KeyError) else error_text(error)
        raise StepError(f"Secret {MLFLOW_SECRET} in namespace {namespace} of {context}: {reason}. {advice}") from error
    os.environ.update({TOKEN: token, "NETRC": os.devnull})
