"""Read the logs of a run whose pods are gone: KFP archives each step's log as the artifact `executor-logs`.

A stock installation removes workflow and pods one hour after the end of a run. Argo's ConfigMap names the bucket and
the Secret with its login; `kfp-launcher` names another bucket where a site has moved its artifacts.
"""

import base64
from dataclasses import dataclass
from urllib.parse import urlsplit

import boto3
import urllib3
import yaml
from botocore.config import Config
from kubernetes.client.rest import ApiException

from components.core.errors import StepError
from components.core.kubernetes_errors import error_text
from components.core.storage import Storage
from pipelines.cluster.argo_retries import CONFIG_MAP
from pipelines.cluster.connect import Connection
from pipelines.cluster.timeouts import TIMEOUT_SECONDS
from pipelines.pipeline import NAME

LAUNCHER, ROOT = "kfp-launcher", "v2/artifacts"
FILE = "executor-logs"
PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class ArchivedLog:
    step: str
    address: str
    text: str


def archived_logs(cluster: Connection, run_id: str, steps: list[str]) -> list[ArchivedLog]:
    """Return the archived logs of these steps, in their order; a step from cache has none in this run.

    Raises:
        StepError: the cluster does not name the bucket, or the bucket cannot be read.
    """
    storage = _storage(cluster, run_id)
    keys = [found.key for found in storage.list() if found.key.rpartition("/")[2] == FILE]
    by_step = [(step, key) for step in steps for key in keys if key.partition("/")[0] == step]
    return [
        ArchivedLog(step, f"{storage.uri}/{key}", storage.get(key).decode(errors="replace")) for step, key in by_step
    ]


def _storage(cluster: Connection, run_id: str) -> Storage:
    """Return the folder of the run's artifacts in KFP's bucket."""
    try:
        s3 = yaml.safe_load(_config_map(cluster, cluster.system_namespace, CONFIG_MAP)["artifactRepository"])["s3"]
        bucket, prefix = s3["bucket"], ROOT
        if pipeline_root := _config_map(cluster, cluster.namespace, LAUNCHER).get("defaultPipelineRoot"):
            parts = urlsplit(pipeline_root)
            bucket, prefix = parts.netloc, parts.path.strip("/")
        login = {
            "aws_access_key_id": _secret(cluster, s3["accessKeySecret"]),
            "aws_secret_access_key": _secret(cluster, s3["secretKeySecret"]),
        }
        url = f"{'http' if s3.get('insecure') else 'https'}://{s3['endpoint']}"
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        reason = error_text(error)
        raise StepError(f"the place of KFP's artifacts cannot be read in {cluster.context}: {reason}") from error
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise StepError(f"ConfigMap {CONFIG_MAP} does not name the place of KFP's artifacts ({error})") from error
    config = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 2})
    client = boto3.client(
        "s3", endpoint_url=cluster.reachable(url), region_name=s3.get("region") or "us-east-1", config=config, **login
    )
    storage = Storage(f"s3://{bucket}/{prefix}/{NAME}/{run_id}", client)
    storage.patience = PATIENCE_SECONDS
    return storage


def _config_map(cluster: Connection, namespace: str, name: str) -> dict[str, str]:
    """Return the data of a ConfigMap; empty where it does not exist."""
    try:
        return cluster.core.read_namespaced_config_map(name, namespace, _request_timeout=TIMEOUT_SECONDS).data or {}
    except ApiException as error:
        if error.status == 404:
            return {}
        raise


def _secret(cluster: Connection, reference: dict[str, str]) -> str:
    name, key = reference["name"], reference["key"]
    data = cluster.core.read_namespaced_secret(name, cluster.namespace, _request_timeout=TIMEOUT_SECONDS).data
    return base64.b64decode((data or {})[key]).decode()
