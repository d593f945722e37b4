"""MLflow tracking: one run per pipeline run. Every step finds the same run, also after a kill."""

import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core import run_name
from components.core.errors import StepError
from components.core.loopback import is_here
from components.registry.mlflow_page import NOTE, experiment_tags, source_tags
from components.registry.mlflow_requests import explain_mlflow_errors, find_or_create

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

EXPERIMENT = "dwi-stroke-segmentation"
TRAINING_VIEW = "?workflowType=machine_learning"
"""The end of every link into MLflow's pages. Without it, a new browser shows the pages for GenAI."""
MODEL_NAME = "dwi-attention-unet"
EPOCH_METRICS = ("train_loss", "train_dice", "val_loss", "val_dice", "learning_rate")
CODE_TAGS = {"GIT_COMMIT": "git_commit", "IMAGE_TAG": "image_tag", "KFP_RUN_ID": "kfp_run_id"}
"""Environment variable to the tag of the run that holds its value."""
PARENT, FOLD = "mlflow.parentRunId", "fold"
"""Tags of the run of one network of a cross-validation: MLflow shows it below the run of the ensemble."""
PIPELINE_RUNS = "pipeline_runs"
"""Tag of a version: the ids of the pipeline runs that produced it, the newest last."""
MOST_PIPELINE_RUNS = 20
LINKED_TOGETHER = 100
"""MLflow 3.17 refuses a repeated request with more metrics of a model."""
TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 - the variable's name


class Run:
    """An MLflow run that every step of a pipeline run can open and write to, more than once.

    finished_at: when the run finished, in ms, if an earlier pipeline run produced the same evaluation; else None. The
    functions that record an evaluation then record nothing, because MLflow would show a longer run.
    """

    def __init__(self, client, run_id: str, finished_at: int | None = None):
        self.client, self.id, self.finished_at = client, run_id, finished_at
        self.sender: threading.Thread | None = None

    @classmethod
    @explain_mlflow_errors()
    def open(cls, training_digest: str, evaluation_digest: str = "") -> "Run":
        """Return the run of this pipeline run.

        The first that exists of: the run in MLFLOW_RUN_ID; the run of this pipeline run (KFP_RUN_ID); the run with this
        evaluation; a run of the same training that was killed before its end. Else a new run.

        Raises:
            StepError: MLflow does not answer, or the run in MLFLOW_RUN_ID is missing.
        """
        import mlflow

        kfp_run = os.environ.get("KFP_RUN_ID", "")
        name, tags = run_name.read_name(), {**code_tags(), **source_tags(), "training_digest": training_digest}
        client = mlflow.MlflowClient()
        if run_id := os.environ.get("MLFLOW_RUN_ID"):
            client.get_run(run_id)
            name = ""
        else:
            experiment = _experiment()
            number = experiment.experiment_id
            for key, value in experiment_tags(experiment.tags).items():
                client.set_experiment_tag(number, key, value)
            run_id = find_or_create(
                lambda: _find_run(client, number, kfp_run, training_digest, evaluation_digest),
                lambda: client.create_run(number, run_name=name or None, tags=tags).info.run_id,
            )
        found = client.get_run(run_id)
        if _is_finished(found, evaluation_digest):
            return cls(client, run_id, found.info.end_time)
        client.update_run(run_id, status="RUNNING", name=name or None)
        run = cls(client, run_id)
        run.set_tags(tags)
        return run

    @classmethod
    @explain_mlflow_errors()
    def open_network(cls, ensemble_digest: str, training_digest: str, fold: int, folds: int) -> "Run":
        """Return the run of one network of a cross-validation, below the run of the ensemble.

        The networks may train at the same time: all use the oldest run of this pipeline run as the ensemble's.

        Raises:
            StepError: as `open`.
        """
        ensemble = cls._open_ensemble(ensemble_digest)
        client, number = ensemble.client, ensemble.client.get_run(ensemble.id).info.experiment_id
        of_network = f"tags.`{PARENT}` = '{ensemble.id}' and tags.training_digest = '{training_digest}'"
        tags = {PARENT: ensemble.id, FOLD: str(fold), "training_digest": training_digest, **code_tags()}
        run_id = find_or_create(
            lambda: next((run.info.run_id for run in client.search_runs([number], of_network)), None),
            lambda: client.create_run(number, run_name=f"fold {fold} of {folds}", tags=tags).info.run_id,
        )
        client.update_run(run_id, status="RUNNING")
        run = cls(client, run_id)
        run.set_tags(tags)
        return run

    @classmethod
    def _open_ensemble(cls, ensemble_digest: str) -> "Run":
        opened, kfp_run = cls.open(ensemble_digest), os.environ.get("KFP_RUN_ID")
        if os.environ.get("MLFLOW_RUN_ID") or not kfp_run:
            return opened
        number = opened.client.get_run(opened.id).info.experiment_id
        found = [run for run in opened.client.search_runs([number], f"tags.kfp_run_id = '{kfp_run}'")
                 if FOLD not in run.data.tags]  # fmt: skip
        oldest = min(found, key=lambda run: (run.info.start_time, run.info.run_id)).info.run_id
        if oldest == opened.id:
            return opened
        opened.client.delete_run(opened.id)
        return cls(opened.client, oldest)

    def set_tags(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_tag(self.id, key, str(value))

    @explain_mlflow_errors()
    def log_params(self, params: dict[str, Any]) -> None:
        """Log parameters. A parameter that MLflow has with another value keeps it, with a warning in the log."""
        from mlflow.entities import Param

        logged = self.client.get_run(self.id).data.params
        for key, value in params.items():
            if logged.get(key, str(value)) != str(value):
                logging.warning("MLflow keeps %s=%s of the interrupted run, now %s", key, logged[key], value)
        new = [Param(k, str(v)) for k, v in params.items() if k not in logged]
        if new:
            self.client.log_batch(self.id, params=new)

    def log_epochs(self, history: list[dict[str, float]]) -> None:
        """Log the epochs that MLflow does not have yet, in order. After a kill or an outage each is there once."""
        if self.sender:
            self.sender.join()
        self._log_missing_epochs(history)

    def log_epochs_in_background(self, history: list[dict[str, float]]) -> None:
        """Call `log_epochs` in a thread while training continues. Epochs that fail are logged with a later call."""
        if self.sender and self.sender.is_alive():
            return

        def send(rows: list[dict[str, float]]) -> None:
            try:
                self._log_missing_epochs(rows)
            except Exception as error:  # no error of MLflow may end a training
                logging.warning("MLflow does not accept metrics now, training continues: %s", str(error)[:200])

        self.sender = threading.Thread(target=send, args=(list(history),), daemon=True, name="epochs to MLflow")
        self.sender.start()

    def _log_missing_epochs(self, history: list[dict[str, float]]) -> None:
        from mlflow.entities import Metric

        logged = {m.step for m in self.client.get_metric_history(self.id, EPOCH_METRICS[-1])}
        for row in history:
            if row["epoch"] not in logged:
                stamp, step = int(row["time"] * 1000), int(row["epoch"])
                self.client.log_batch(self.id, metrics=[Metric(k, row[k], stamp, step) for k in EPOCH_METRICS])

    def log_metrics(self, metrics: dict[str, float]) -> None:
        """Log metrics without steps. A metric that MLflow has with the same value is skipped."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        logged, now = self.client.get_run(self.id).data.metrics, get_current_time_millis()
        new = [Metric(name, value, now, 0) for name, value in metrics.items() if logged.get(name) != value]
        self.client.log_batch(self.id, metrics=new)

    def log_datasets(self, inputs: "list[DatasetInput]") -> None:
        """Log the datasets of the run. MLflow skips those that it has."""
        self.client.log_inputs(self.id, datasets=inputs)

    @explain_mlflow_errors()
    def log_seconds(self, step: str, seconds: float) -> None:
        """Log how long a step took, as the metric `step_seconds_<step>`. A run that finished before keeps its own."""
        if not self.finished_at:
            self.log_metrics({f"step_seconds_{step}": round(seconds, 1)})

    def link_model(self, model_id: str) -> None:
        """Show the metrics of the test as those of a logged model too, on the dataset of the context "test".

        Each is logged again as it is in the run, with its time, so that its history in the run stays the same.
        """
        from mlflow.entities import Metric

        run = self.client.get_run(self.id)
        contexts = {tag.value: used.dataset for used in run.inputs.dataset_inputs for tag in used.tags}
        test = contexts.get("test")
        on = {"dataset_name": test.name, "dataset_digest": test.digest} if test else {}
        linked = {metric.key for metric in self.client.get_logged_model(model_id).metrics or ()}
        metrics = [
            Metric(metric.key, metric.value, metric.timestamp, metric.step, model_id=model_id, run_id=self.id, **on)
            for metric in run.to_proto().data.metrics
            if metric.key.startswith("test_") and metric.key not in linked
        ]
        for first in range(0, len(metrics), LINKED_TOGETHER):
            self.client.log_batch(self.id, metrics=metrics[first : first + LINKED_TOGETHER])

    def add_note(self, note: str) -> None:
        """Describe the run (Markdown), unless somebody did."""
        if not self.has_tag(NOTE):
            self.set_tags({NOTE: note})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.id, str(path), folder)

    def log_artifact_as(self, path: Path, name: str) -> None:
        """Log a file under another name."""
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / name
            named.symlink_to(path.resolve())
            self.log_artifact(named)

    def has_tag(self, tag: str, value: str | None = None) -> bool:
        """Return whether the run has the tag, and with this value if one is given."""
        tags = self.client.get_run(self.id).data.tags
        return tag in tags and value in (None, tags[tag])

    @explain_mlflow_errors()
    def finish(self, status: str = "FINISHED") -> None:
        """End the run. A run that finished before keeps its end time."""
        self.client.set_terminated(self.id, status, end_time=self.finished_at)


def experiment_name() -> str:
    """Return the name of the experiment (MLFLOW_EXPERIMENT_NAME)."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def _experiment():
    """Return the experiment of the runs, created if it is missing.

    Raises:
        StepError: the experiment was deleted in MLflow.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.set_experiment(experiment_name())
    except MlflowException:
        found, uri = mlflow.MlflowClient().get_experiment_by_name(experiment_name()), mlflow.get_tracking_uri()
        if found is None or found.lifecycle_stage == "active":
            raise
        past_proxies = "NO_PROXY='*' " if is_here(uri) else ""
        login = "MLFLOW_TRACKING_TOKEN=$(cat .local/mlflow-token) " if past_proxies and os.environ.get(TOKEN) else ""
        raise StepError(
            f"the experiment {found.name} was deleted in MLflow at {uri}. Restore it with its runs, then run again "
            f"(finished work is kept): {login}{past_proxies}MLFLOW_TRACKING_URI={uri} "
            f".venv/bin/mlflow experiments restore --experiment-id {found.experiment_id}"
        ) from None


def _find_run(client, experiment_id: str, kfp_run: str, training_digest: str, evaluation_digest: str) -> str | None:
    """Return the id of the run that `Run.open` continues, None without one."""
    unfinished = f"tags.training_digest = '{training_digest}' and attributes.status != 'FINISHED'"
    conditions = [
        kfp_run and f"tags.kfp_run_id = '{kfp_run}'",
        evaluation_digest and f"tags.evaluation_digest = '{evaluation_digest}'",
        unfinished,
    ]
    for condition in filter(None, conditions):
        order = ["attributes.start_time ASC"] if condition != unfinished else None
        for run in client.search_runs([experiment_id], condition, order_by=order):
            if condition == unfinished and "evaluation_digest" in run.data.tags:  # the run of a registered version
                continue
            if FOLD in run.data.tags:
                continue
            if run.info.status != "FINISHED" or _is_finished(run, evaluation_digest):
                return run.info.run_id
    return None


def _is_finished(run, evaluation_digest: str) -> bool:
    has_evaluation = bool(evaluation_digest) and run.data.tags.get("evaluation_digest") == evaluation_digest
    return has_evaluation and run.info.status == "FINISHED"


@explain_mlflow_errors()
def champion(client):
    """Return the version with the alias champion, None without one.

    Raises:
        StepError: MLflow does not answer.
    """
    found = client.search_registered_models(f"name = '{MODEL_NAME}'")
    version = found[0].aliases.get("champion") if found else None
    return client.get_model_version(MODEL_NAME, version) if version else None


def code_tags() -> dict[str, str]:
    """Return tags of the code and the pipeline run: git commit, image tag, KFP's id of the run and its page."""
    page = run_name.page()
    tags = {tag: os.environ[name] for name, tag in CODE_TAGS.items() if os.environ.get(name)}
    return tags | ({"kfp_page": page} if page else {})
