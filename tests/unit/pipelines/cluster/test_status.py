"""`make status TARGET=kind`, on stand-ins for KFP and Kubernetes and a real registry."""

import base64

import kfp_server_api as kfp
import pytest

from components.registry.ledger import Ledger
from components.registry.tracking import MODEL_NAME
from pipelines.cluster import connect, status
from tests.unit.components.registry.test_ledger import Bucket


@pytest.fixture
def bucket(kubernetes, monkeypatch):
    """The cluster's object storage, in memory."""
    kubernetes.config_maps["kubeflow/dwi-stroke-settings"] = {
        "S3_ENDPOINT_URL": "http://s3.example.org", "S3_BUCKET": "dwi-stroke",
    }  # fmt: skip
    secret = {name: base64.b64encode(b"x").decode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    kubernetes.secrets["kubeflow/dwi-stroke-s3"] = secret
    bucket = Bucket()
    monkeypatch.setattr(status, "Ledger", lambda: Ledger(bucket))
    return bucket


def run(name: str, state: str) -> kfp.V2beta1Run:
    return kfp.V2beta1Run(run_id=f"id-{name}", display_name=name, state=state)


def test_it_shows_services_runs_schedules_and_the_champion(cluster, bucket, kubeflow, tracking, capsys):
    import mlflow

    mlflow.MlflowClient(tracking).set_registered_model_alias(MODEL_NAME, "champion", "2")
    kubeflow.runs = [run("over", "SUCCEEDED"), run("going", "RUNNING"), run("failed", "FAILED"), run("new", "PENDING")]
    cron = kfp.V2beta1Trigger(cron_schedule=kfp.V2beta1CronSchedule(cron="0 0 2 * * *"))
    nightly = {"recurring_run_id": "r-1", "display_name": "nightly", "status": "ENABLED", "trigger": cron}
    kubeflow.schedules = [kfp.V2beta1RecurringRun(**nightly)]
    assert cluster("status", "--target", "kind") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1)[0] for line in shown[1:]] == [
        "KFP", "run", "run", "schedule", "MLflow", "champion", "S3",
    ]  # fmt: skip
    for line in (
        f"KFP       answers  {kubeflow.url}  ({connect.NO_LOGIN})",
        f"run       going  running  {kubeflow.url}/#/runs/details/id-going",
        f"run       new  pending  {kubeflow.url}/#/runs/details/id-new",
        'schedule  nightly  "0 0 2 * * *"  enabled',
        f"champion  {MODEL_NAME} version 2: champion stays, says an earlier evaluation",
        "S3        answers  http://s3.example.org",
    ):
        assert line in shown


def test_where_nothing_goes_on_it_says_so(cluster, bucket, kubeflow, capsys):
    assert cluster("status", "--target", "kind") == 0
    out = capsys.readouterr().out
    for line in ("run       none is open", "schedule  none", "champion  none"):
        assert line in out.splitlines()


def test_what_does_not_answer_is_named_and_the_rest_still_shown(cluster, bucket, kubeflow, capsys):
    kubeflow.vanish()
    assert cluster("status", "--target", "kind") == 1
    out = capsys.readouterr().out
    assert f"KFP       NO ANSWER: no Kubeflow Pipelines at {kubeflow.url}" in out and "MLflow    answers" in out


def test_a_registry_and_a_ledger_that_do_not_belong_together_are_said(cluster, bucket, tracking, capsys):
    import mlflow

    mlflow.MlflowClient(tracking).set_registered_model_tag(MODEL_NAME, "ledger_id", "another")
    assert cluster("status", "--target", "kind") == 1
    assert "WRONG     the registry" in capsys.readouterr().out
