"""Use the object storage of a cluster's steps, and upload a folder to it."""

import base64
import os
from pathlib import Path

from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from components.core.errors import StepError
from components.core.kubernetes_errors import error_text
from pipelines.cluster.connect import Connection
from pipelines.cluster.kubernetes import CONFIG_MAP, S3_SECRET
from pipelines.cluster.timeouts import TIMEOUT_SECONDS
from pipelines.demo.default_scans import demo_scans
from pipelines.environment import S3_ADDRESS, settle_without
from pipelines.upload import upload


def data_address(data: str, state: Path, cluster: Connection) -> str:
    """Return the scans as s3://bucket/prefix; upload a folder, or the synthetic scans where `data` is empty."""
    if data.startswith("s3://"):
        return data
    folder = Path(data) if data else demo_scans(state)
    use_storage(cluster)
    return upload(folder, state / cluster.target)


def use_storage(cluster: Connection) -> None:
    """Set the S3 variables of this process: those of the environment, or else (on kind always) the cluster's own.

    Raises:
        StepError: no kube context, or no right to read the cluster's settings.
    """
    endpoint = next((os.environ[name] for name in S3_ADDRESS if os.environ.get(name)), "")
    if cluster.target == "kind" or not endpoint:
        settings = {name: value for name, value in _settings(cluster).items() if name.startswith(("S3_", "AWS_"))}
        settle_without(S3_ADDRESS)
        os.environ.update(settings)
        endpoint = settings.get("S3_ENDPOINT_URL", "")
    if endpoint:
        os.environ["S3_ENDPOINT_URL"] = cluster.reachable(endpoint)


def _settings(cluster: Connection) -> dict[str, str]:
    core, namespace = cluster.core, cluster.namespace
    if core is None:
        raise StepError(
            "the scans need an S3. Set S3_ENDPOINT_URL, S3_BUCKET, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
            "or KUBE_CONTEXT to use the cluster's own S3; or DATA=s3://bucket/prefix."
        )
    source, limit = f"ConfigMap {CONFIG_MAP}", {"_request_timeout": TIMEOUT_SECONDS}
    try:
        settings = core.read_namespaced_config_map(CONFIG_MAP, namespace, **limit).data or {}
        source = f"Secret {S3_SECRET}"
        secret = core.read_namespaced_secret(S3_SECRET, namespace, **limit).data or {}
    except (ApiException, HTTPError) as error:
        status = error.status if isinstance(error, ApiException) else 0
        advice = {
            404: "Apply manifests/ and run manifests/create-secrets.sh (docs/kubernetes.md), "
                 "or set PIPELINE_NAMESPACE to where KFP runs the steps.",
            401: "Log in to the cluster again.",
            403: "Ask for the right to read it, or set S3_ENDPOINT_URL, S3_BUCKET and AWS_*.",
        }.get(status, f"Does kubectl --context {cluster.context} get pods work?")  # fmt: skip
        raise StepError(
            f"{source} in namespace {namespace} of {cluster.context}: {error_text(error)}. {advice}"
        ) from error
    return settings | {name: base64.b64decode(value).decode() for name, value in secret.items()}
