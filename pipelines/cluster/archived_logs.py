"""The logs of a run whose pods are gone: KFP keeps each step's as the artifact `executor-logs` in its bucket.

A stock installation removes workflow and pods an hour after a run's end. Where the bucket is and which login opens it
stands in Argo's ConfigMap; `kfp-launcher` names another bucket where a site has moved its artifacts.
"""

import base64
from dataclasses import dataclass
from urllib.parse import urlsplit

import boto3
import urllib3
import yaml
from botocore.config import Config
from kubernetes.client.rest import ApiException

from components.core.step import StepError
from components.core.storage import Storage
from pipelines.cluster.argo_retries import CONFIG_MAP
from pipelines.cluster.connect import Connection
from pipelines.pipeline import NAME

LAUNCHER, ROOT = "kfp-launcher", "v2/artifacts"
FILE = "executor-logs"
PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class KeptLog:
    step: str
    address: str
    text: str


def kept_logs(cluster: Connection, run_id: str, wanted: list[str]) -> list[KeptLog]:
    """What is kept of these steps, in their order; a step from cache has none in this run.

    Raises:
        StepError: the bucket is not named, or cannot be read.
    """
    storage = _storage(cluster, run_id)
    kept = [o.key for o in storage.list() if o.key.rpartition("/")[2] == FILE]
    found = [(step, key) for step in wanted for key in kept if key.partition("/")[0] == step]
    return [KeptLog(step, f"{storage.uri}/{key}", storage.get(key).decode(errors="replace")) for step, key in found]


def _storage(cluster: Connection, run_id: str) -> Storage:
    try:
        s3 = yaml.safe_load(_config_map(cluster, cluster.system_namespace, CONFIG_MAP)["artifactRepository"])["s3"]
        bucket, prefix = s3["bucket"], ROOT
        if given := _config_map(cluster, cluster.namespace, LAUNCHER).get("defaultPipelineRoot"):
            parts = urlsplit(given)
            bucket, prefix = parts.netloc, parts.path.strip("/")
        login = {
            "aws_access_key_id": _secret(cluster, s3["accessKeySecret"]),
            "aws_secret_access_key": _secret(cluster, s3["secretKeySecret"]),
        }
        url = f"{'http' if s3.get('insecure') else 'https'}://{s3['endpoint']}"
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        said = f"{error.status} {error.reason}" if isinstance(error, ApiException) else str(error)
        raise StepError(f"where KFP keeps its artifacts cannot be read in {cluster.context}: {said}") from error
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise StepError(f"ConfigMap {CONFIG_MAP} does not say where KFP keeps its artifacts ({error})") from error
    config = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 2})
    client = boto3.client(
        "s3", endpoint_url=cluster.reachable(url), region_name=s3.get("region") or "us-east-1", config=config, **login
    )
    storage = Storage(f"s3://{bucket}/{prefix}/{NAME}/{run_id}", client)
    storage.patience = PATIENCE_SECONDS
    return storage


def _config_map(cluster: Connection, namespace: str, name: str) -> dict[str, str]:
    """Its data; empty where there is none of this name."""
    try:
        return cluster.core.read_namespaced_config_map(name, namespace, _request_timeout=(10, 60)).data or {}
    except ApiException as error:
        if error.status == 404:
            return {}
        raise


def _secret(cluster: Connection, reference: dict[str, str]) -> str:
    data = cluster.core.read_namespaced_secret(reference["name"], cluster.namespace, _request_timeout=(10, 60)).data
    return base64.b64decode((data or {})[reference["key"]]).decode()
