"""`make status` of a cluster: its services, open runs, schedules and champion."""

import os

from components.core.errors import StepError
from components.core.step import without_logins
from components.registry import mlflow_requests, tracking
from components.registry.ledger import Ledger
from components.registry.ledger_pairing import pairing_problem
from components.registry.tracking import EXPERIMENT, MODEL_NAME
from pipelines.cluster.api import Api
from pipelines.cluster.connect import NO_LOGIN, Connection, connect
from pipelines.cluster.storage import use_storage
from pipelines.environment import environment_as_before

PATIENCE_SECONDS = 10
"""For object storage: a status shall not take two minutes."""


def status(target: str) -> bool:
    """Print the status; return whether all services answer, and registry and ledger belong together."""
    with environment_as_before(), connect(target) as cluster:
        os.environ[mlflow_requests.RETRIES] = "1"
        return all([_pipelines(cluster), _registry(cluster)])


def _pipelines(cluster: Connection) -> bool:
    """Print the status of Kubeflow Pipelines, its open runs and its schedules; return whether it answers."""
    try:
        api = Api(cluster.kfp_url, kind=cluster.target == "kind")
        api.check()
        open_runs, schedules = api.open_runs(), api.schedules(api.experiment(EXPERIMENT))
    except StepError as error:
        _print("KFP", f"NO ANSWER: {error}")
        return False
    _print("KFP", f"answers  {cluster.kfp_url}" + (f"  ({NO_LOGIN})" if cluster.target == "kind" else ""))
    for run in open_runs:
        state = (run.state or "pending").lower()
        _print("run", f"{run.display_name}  {state}  {cluster.kfp_url}/#/runs/details/{run.run_id}")
    if not open_runs:
        _print("run", "none is open")
    for schedule in schedules:
        cron = schedule.trigger and schedule.trigger.cron_schedule and schedule.trigger.cron_schedule.cron
        state = (schedule.status or "off").lower()
        _print("schedule", f'{schedule.display_name}  "{cron or ""}"  {state}')
    if not schedules:
        _print("schedule", "none")
    return True


def _registry(cluster: Connection) -> bool:
    """Print the status of MLflow, object storage and the champion; return whether all is well."""
    import mlflow

    try:
        os.environ["MLFLOW_TRACKING_URI"] = cluster.mlflow_url
        client = mlflow.MlflowClient()
        champion = tracking.champion(client)
        _print("MLflow", f"answers  {cluster.mlflow_url}")
    except StepError as error:
        _print("MLflow", f"NO ANSWER: {error}")
        return False
    why = champion and (champion.tags.get("decision") or "its registry entry has no reason")
    _print("champion", f"{MODEL_NAME} version {champion.version}: {why}" if champion else "none")
    try:
        use_storage(cluster)
        ledger = Ledger()
        ledger.storage.patience = PATIENCE_SECONDS
        mismatch = pairing_problem(ledger)
    except StepError as error:
        _print("S3", f"NO ANSWER: {error}")
        return False
    _print("S3", f"answers  {os.environ.get('S3_ENDPOINT_URL') or 'AWS'}")
    if mismatch:
        _print("WRONG", mismatch)
    return not mismatch


def _print(name: str, text: str) -> None:
    print(f"{name:<9} {without_logins(text)}", flush=True)
