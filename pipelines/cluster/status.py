"""`make status` of a cluster: whether its services answer, what runs, what is scheduled, and who is champion."""

import os

from components.core.step import StepError, without_logins
from components.registry import mlflow_requests, tracking
from components.registry.ledger import Ledger
from components.registry.ledger_pairing import pairing_problem
from components.registry.tracking import EXPERIMENT, MODEL_NAME
from pipelines.cluster.api import Api
from pipelines.cluster.connect import NO_LOGIN, Connection, connect
from pipelines.cluster.storage import use_storage
from pipelines.target import environment_as_before

PATIENCE_SECONDS = 10
"""For object storage: a status is not worth two minutes."""


def status(target: str) -> bool:
    """Print it, a line for each thing; whether all services answer, and registry and ledger belong together."""
    with environment_as_before(), connect(target) as cluster:
        os.environ[mlflow_requests.RETRIES] = "1"
        return all([_pipelines(cluster), _registry(cluster)])


def _pipelines(cluster: Connection) -> bool:
    """Kubeflow Pipelines, with its runs and schedules."""
    try:
        api = Api(cluster.kfp_url, kind=cluster.target == "kind")
        api.check()
        going, schedules = api.going(), api.schedules(api.experiment(EXPERIMENT))
    except StepError as error:
        _say("KFP", f"NO ANSWER: {error}")
        return False
    _say("KFP", f"answers  {cluster.kfp_url}" + (f"  ({NO_LOGIN})" if cluster.target == "kind" else ""))
    for run in going:
        state = (run.state or "pending").lower()
        _say("run", f"{run.display_name}  {state}  {cluster.kfp_url}/#/runs/details/{run.run_id}")
    if not going:
        _say("run", "none is under way")
    for schedule in schedules:
        cron = schedule.trigger and schedule.trigger.cron_schedule and schedule.trigger.cron_schedule.cron
        state = (schedule.status or "off").lower()
        _say("schedule", f'{schedule.display_name}  "{cron or ""}"  {state}')
    if not schedules:
        _say("schedule", "none")
    return True


def _registry(cluster: Connection) -> bool:
    """MLflow and object storage: the champion, by the registry and by the ledger."""
    import mlflow

    try:
        os.environ["MLFLOW_TRACKING_URI"] = cluster.mlflow_url
        client = mlflow.MlflowClient()
        champion = tracking.champion(client)
        _say("MLflow", f"answers  {cluster.mlflow_url}")
    except StepError as error:
        _say("MLflow", f"NO ANSWER: {error}")
        return False
    why = champion and (champion.tags.get("decision") or "its registry entry does not say why")
    _say("champion", f"{MODEL_NAME} version {champion.version}: {why}" if champion else "none")
    try:
        use_storage(cluster)
        ledger = Ledger()
        ledger.storage.patience = PATIENCE_SECONDS
        apart = pairing_problem(ledger)
    except StepError as error:
        _say("S3", f"NO ANSWER: {error}")
        return False
    _say("S3", f"answers  {os.environ.get('S3_ENDPOINT_URL') or 'AWS'}")
    if apart:
        _say("WRONG", apart)
    return not apart


def _say(what: str, said: str) -> None:
    print(f"{what:<9} {without_logins(said)}", flush=True)
