"""The login of a cluster's MLflow, which lies in a Secret beside the S3 keys of the steps."""

import base64
import os

from components.core.step import StepError
from components.registry.tracking import TOKEN
from pipelines.cluster.kubernetes import MLFLOW_SECRET
from pipelines.cluster.run_pods import TIMEOUT_SECONDS


def use_login(cluster) -> None:
    """Have this process's MLflow clients, and those of what it starts, log in to the MLflow of `cluster`.

    Raises:
        StepError: there is no such Secret, or no right to read it.
    """
    from kubernetes.client.rest import ApiException
    from urllib3.exceptions import HTTPError

    try:
        secret = cluster.core.read_namespaced_secret(MLFLOW_SECRET, cluster.namespace, _request_timeout=TIMEOUT_SECONDS)
        token = base64.b64decode((secret.data or {})[TOKEN]).decode()
    except (ApiException, HTTPError, KeyError) as error:
        status = getattr(error, "status", 0)
        advice = {
            403: "Ask for the right to read it, or set MLFLOW_TRACKING_URI and MLFLOW_TRACKING_TOKEN.",
            401: "Log in to the cluster again.",
        }.get(status, "Run manifests/create-secrets.sh, apply manifests/ (for kind: make kind-up) and try again.")
        said = f"{status} {error.reason}" if status else f"no {TOKEN} in it"
        raise StepError(
            f"Secret {MLFLOW_SECRET} in namespace {cluster.namespace} of {cluster.context}: {said}. {advice}"
        ) from error
    os.environ.update({TOKEN: token, "NETRC": os.devnull})
