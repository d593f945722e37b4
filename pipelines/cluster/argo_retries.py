"""Whether a cluster tries a failed step again: Argo merges its ConfigMap's defaults into the retries that we ask for.

KFP names no policy for our retries, so the one in `templateDefaults.retryStrategy` holds, else Argo's own (OnFailure).
Stock KFP 2.17 has OnError there: a deleted pod is tried again, a killed or failing one is not.
"""

import urllib3
import yaml
from kubernetes.client import CoreV1Api
from kubernetes.client.rest import ApiException

CONFIG_MAP = "workflow-controller-configmap"
WANTED = {
    "limit": "2",
    "retryPolicy": "Always",
    "expression": 'lastRetry.status == "Error" || asInt(lastRetry.exitCode) > 0',
}
"""Tries again what failed and what was lost. A DAG, whose exit code is -1, is not repeated as a whole."""
NOT_TRIED_AGAIN = {
    "OnError": "a step that fails or is killed is",
    "OnFailure": "a step whose pod is deleted or whose node is lost is",
    "OnTransientError": "failed steps are",
}
TIMEOUT_SECONDS = (10, 60)  # to connect, to answer


def note(core: CoreV1Api | None, namespace: str) -> str | None:
    """What this cluster does not try again and what mends that, in a line; None where all is well or cannot be seen."""
    try:
        found = core and core.read_namespaced_config_map(CONFIG_MAP, namespace, _request_timeout=TIMEOUT_SECONDS)
        what = NOT_TRIED_AGAIN.get(policy(found.data or {})) if found else None
    except (ApiException, urllib3.exceptions.HTTPError, yaml.YAMLError, AttributeError):
        return None
    if what is None:
        return None
    wanted = ", ".join(f"{key}: '{value}'" for key, value in WANTED.items())
    return (
        f"note: {what} not tried again on this cluster. Its administrator can mend that in ConfigMap {CONFIG_MAP} "
        f"(namespace {namespace}): workflowDefaults, spec.templateDefaults.retryStrategy: {{{wanted}}}"
    )


def policy(data: dict[str, str]) -> str:
    """The retry policy that our steps get from the ConfigMap's data, by Argo's rules."""
    whole = yaml.safe_load(data.get("config", "")) or {}
    defaults = yaml.safe_load(data.get("workflowDefaults", "")) or whole.get("workflowDefaults") or {}
    strategy = ((defaults.get("spec") or {}).get("templateDefaults") or {}).get("retryStrategy") or {}
    return strategy.get("retryPolicy") or ("Always" if strategy.get("expression") else "OnFailure")


def mended(data: dict[str, str]) -> dict[str, str]:
    """What to change of the data of KFP's ConfigMap; the rest of its defaults stays as it is."""
    defaults = yaml.safe_load(data.get("workflowDefaults", "")) or {}
    template = defaults.setdefault("spec", {}).setdefault("templateDefaults", {})
    template["retryStrategy"] = WANTED
    return {"workflowDefaults": yaml.safe_dump(defaults, sort_keys=False)}
