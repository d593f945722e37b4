"""Find out whether a cluster retries a failed step: Argo merges defaults of its ConfigMap into a step's retry settings.

KFP sets no retry policy. Argo then uses that of `templateDefaults.retryStrategy`, or OnFailure where it has none. Stock
KFP 2.17 has OnError there: a deleted pod is retried, a pod that fails or is killed is not.
"""

import urllib3
import yaml
from kubernetes.client import CoreV1Api
from kubernetes.client.rest import ApiException

from pipelines.cluster.timeouts import TIMEOUT_SECONDS

CONFIG_MAP = "workflow-controller-configmap"
WANTED = {
    "limit": "2",
    "retryPolicy": "Always",
    "expression": 'lastRetry.status == "Error" || asInt(lastRetry.exitCode) > 0',
}
"""Retries failed and lost pods. It does not repeat a whole DAG, which has the exit code -1."""
NOT_RETRIED = {
    "OnError": "A step that fails or is killed is",
    "OnFailure": "A step whose pod is deleted or whose node is lost is",
    "OnTransientError": "Failed steps are",
}


def note(core: CoreV1Api | None, namespace: str) -> str | None:
    """Return a line on what this cluster does not retry, and how to change that; None where it does, or is unknown."""
    try:
        found = core and core.read_namespaced_config_map(CONFIG_MAP, namespace, _request_timeout=TIMEOUT_SECONDS)
        what = NOT_RETRIED.get(policy(found.data or {})) if found else None
    except (ApiException, urllib3.exceptions.HTTPError, yaml.YAMLError, AttributeError):
        return None
    if what is None:
        return None
    wanted = ", ".join(f"{key}: '{value}'" for key, value in WANTED.items())
    return (
        f"note: {what} not retried on this cluster. Its administrator can change that in ConfigMap {CONFIG_MAP} "
        f"(namespace {namespace}): workflowDefaults, spec.templateDefaults.retryStrategy: {{{wanted}}}"
    )


def policy(data: dict[str, str]) -> str:
    """Return the retry policy that our steps get from the data of the ConfigMap, by Argo's rules."""
    config = yaml.safe_load(data.get("config", "")) or {}
    defaults = yaml.safe_load(data.get("workflowDefaults", "")) or config.get("workflowDefaults") or {}
    strategy = ((defaults.get("spec") or {}).get("templateDefaults") or {}).get("retryStrategy") or {}
    return strategy.get("retryPolicy") or ("Always" if strategy.get("expression") else "OnFailure")


def with_retries(data: dict[str, str]) -> dict[str, str]:
    """Return the changes to the data of KFP's ConfigMap that make Argo retry; its other defaults stay."""
    defaults = yaml.safe_load(data.get("workflowDefaults", "")) or {}
    template = defaults.setdefault("spec", {}).setdefault("templateDefaults", {})
    template["retryStrategy"] = WANTED
    return {"workflowDefaults": yaml.safe_dump(defaults, sort_keys=False)}
