"""A cluster made of stand-ins, and the command line on it."""

import contextlib
import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from pipelines import __main__ as command_line
from pipelines.cluster import api, connect, pod_logs, run_on_cluster, schedules, storage, watch
from pipelines.cluster import kubernetes as kubernetes_settings
from tests.support.kubeflow_stand_in import RUN_ID, Kubeflow, Workflow
from tests.support.kubernetes_stand_in import Kubernetes

FOREIGN = ("AWS_", "S3_", "MLFLOW_", "KFP_", "KUBE", "PIPELINE_", "REGISTRY", "GPUS")
ALL = ("fingerprint", "ingest", "preprocess", "split", "train", "evaluate", "register")


@pytest.fixture
def kubeflow():
    with Kubeflow() as server:
        workflow = Workflow()
        for step in ALL:
            workflow.step(step)
        server.stages = [("SUCCEEDED", workflow)]
        yield server


@pytest.fixture
def kubernetes():
    with Kubernetes() as server:
        yield server


@pytest.fixture(scope="session")
def database_of_a_run(empty_database, tmp_path_factory):
    """The database of `tracking`, made once; its artifacts lie in the folder `artifacts` beside it."""
    path = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    shutil.copy(empty_database, path)
    client = mlflow.MlflowClient(f"sqlite:///{path}")
    experiment = client.create_experiment(
        "dwi-stroke-segmentation", artifact_location=(path.parent / "artifacts").as_uri()
    )
    tags = {"kfp_run_id": RUN_ID, "data_version": "d1", "data": "synthetic demo scans, no patients"}
    run = client.create_run(experiment, tags=tags | {"evaluation_digest": "now"}).info.run_id
    for metric in ("dice", "absolute_volume_difference_ml", "lesion_f1"):
        for end in ("mean", "ci_low", "ci_high"):
            client.log_metric(run, f"test_{metric}_{end}", 0.5)
    client.log_metric(run, "test_patients", 5)
    client.log_metric(run, "val_dice", 0.7)
    client.create_registered_model("dwi-attention-unet")
    for digest, runs in (("now", f"another,{RUN_ID}"), ("an earlier evaluation", "another")):
        tags = {"evaluation_digest": digest, "decision": f"champion stays, says {digest}", "pipeline_runs": runs}
        client.create_model_version("dwi-attention-unet", "s3://b/m", run, tags)
    client.set_registered_model_alias("dwi-attention-unet", "challenger", "1")
    return path


@pytest.fixture
def tracking(database_of_a_run, tmp_path):
    """The MLflow that the steps log to, with the run of RUN_ID and its model version."""
    path = tmp_path / "mlflow.db"
    shutil.copy(database_of_a_run, path)
    moved = {"before": database_of_a_run.parent.as_uri(), "now": tmp_path.as_uri()}
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"update {table} set {column} = replace({column}, :before, :now)", moved)  # noqa: S608
    _artifact_repos_cache.clear()  # MLflow keeps the place of a run's artifacts by the run's id alone
    return f"sqlite:///{path}"


class MlflowRun(NamedTuple):
    """The MLflow run of RUN_ID."""

    client: mlflow.MlflowClient
    id: str

    def status(self) -> str:
        return self.client.get_run(self.id).info.status


@pytest.fixture
def mlflow_run(tracking) -> MlflowRun:
    client = mlflow.MlflowClient(tracking)
    experiment = client.get_experiment_by_name("dwi-stroke-segmentation").experiment_id
    (run,) = client.search_runs([experiment], f"tags.kfp_run_id = '{RUN_ID}'")
    return MlflowRun(client, run.info.run_id)


@pytest.fixture(scope="session")
def compile_once(tmp_path_factory):
    """The compiler, which takes seconds, asked once for each REGISTRY, and for kind."""
    folder = tmp_path_factory.mktemp("compiled")

    def compile_pipeline(output: Path, kind: bool = False) -> None:
        known = folder / f"{os.environ.get('REGISTRY', '').replace('/', '-')}-{kind}.yaml"
        if not known.exists():
            kubernetes_settings.compile_pipeline(known, kind)
        shutil.copy(known, output)

    return compile_pipeline


@pytest.fixture
def cluster(kubeflow, kubernetes, tracking, compile_once, tmp_path, monkeypatch):
    """`cluster("run", "--target", "kind")` is the command line on the stand-ins: its exit code."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    kubeconfig = kubernetes.kubeconfig(tmp_path / "kubeconfig", "kind-dwi-stroke", "hospital")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setattr(connect, "KIND", {"context": "kind-dwi-stroke", "kfp": kubeflow.url, "mlflow": tracking})
    monkeypatch.setattr(command_line, "STATE", tmp_path / ".local")
    monkeypatch.setattr(run_on_cluster, "COMPILED", tmp_path / "pipeline.yaml")
    monkeypatch.setattr(run_on_cluster, "compile_pipeline", compile_once)
    monkeypatch.setattr(storage, "demo_scans", lambda state: state / "demo-scans")
    for module, name, seconds in (
        (api, "RETRY_SECONDS", 1), (api, "FIRST_PAUSE_SECONDS", 0.05), (watch, "POLL_SECONDS", 0.02),
        (watch, "PATIENCE_SECONDS", 0.05), (pod_logs, "POLL_SECONDS", 0.02),
        (schedules, "SETTLE_SECONDS", 0), (schedules, "POLL_SECONDS", 0.02), (schedules, "STOP_SECONDS", 0.5),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, seconds)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["pipelines", *arguments])
        return command_line.main()

    return run


@pytest.fixture
def kind_run(cluster):
    """A run on kind of scans that are in S3 already; its exit code."""
    return lambda *more: cluster("run", "--target", "kind", "--data", "s3://dwi-stroke/scans", *more)


@pytest.fixture
def last_run(tmp_path):
    return lambda: json.loads((tmp_path / ".local" / "last-run.json").read_text())
