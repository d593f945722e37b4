"""MLflow: one run per pipeline run, whichever step comes to it first, and again after a kill."""

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from components.artifacts import synthetic
from components.core import run_name
from components.core.loopback import is_here
from components.core.port_owner import guard
from components.core.step import StepError
from components.core.storage import file_sha256

EXPERIMENT = "dwi-stroke-segmentation"
KIND = "mlflow.experimentKind"
"""The tag by which MLflow lists the experiment as one of model training, not of GenAI."""
TRAINING_VIEW = "?workflowType=machine_learning"
"""Ends every link into MLflow's pages: a browser that has never been there opens the pages of GenAI without it."""
MODEL_NAME = "dwi-attention-unet"
COST = ("training_seconds", "training_seconds_taken_over")
"""Metrics: what all epochs took, whichever run they ran in, and those of them that an earlier run had trained."""
OF_MASKS = ("case", "truth_voxels", "predicted_voxels", "dice", "lesions_found", "false_lesions")
"""What of a scan's measures tells one mask from another."""
EPOCH_METRICS = ("train_loss", "train_dice", "val_loss", "val_dice", "learning_rate")
LINEAGE = {"GIT_COMMIT": "git_commit", "IMAGE_TAG": "image_tag", "KFP_RUN_ID": "kfp_run_id"}
"""Environment variables that become tags of the run."""

PIPELINE_RUNS = "pipeline_runs"
"""Tag of a version: the ids of the pipeline runs that came to it, the newest last."""
MOST_PIPELINE_RUNS = 20

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
TOKEN = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 - the variable's name
DIRECT = "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"
"""Where true, or where MLflow's server may choose, files come straight from its S3, which not every client reaches."""
PAUSES = (1, 2, 4, 8)
SAID_EVERY_SECONDS = 30
Result = TypeVar("Result")

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault(RETRIES, "4")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault(DIRECT, "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
guard()


@contextlib.contextmanager
def answering(besides: str = "") -> Iterator[None]:
    """What needs MLflow; also a decorator.

    Raises:
        StepError: it does not answer, or refuses.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        raise StepError(
            f"MLflow at {mlflow.get_tracking_uri()}: {' '.join(str(error).split())[:300]}.{besides} "
            "Check MLFLOW_TRACKING_URI and MLFLOW_RUN_ID, or start the embedded server: make up. Then run again: "
            "what is done is kept, and nothing is registered twice."
        ) from error


@contextlib.contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """While MLflow is asked for something large: say every half minute what is waited for, and from which address."""
    import mlflow

    over, began = threading.Event(), time.monotonic()
    where = f"MLflow at {mlflow.get_tracking_uri()}"
    if os.environ.get(DIRECT) != "false":
        where += f", which may send to its S3 ({DIRECT}=false: never)"

    def say() -> None:
        while not over.wait(SAID_EVERY_SECONDS):
            logging.warning("waiting %.0f s for %s, from %s", time.monotonic() - began, what, where)

    threading.Thread(target=say, daemon=True, name="waiting for MLflow").start()
    try:
        yield
    finally:
        over.set()


def made_once(find: Callable[[], Result | None], make: Callable[[], Result]) -> Result:
    """What `find` finds, else what `make` makes. Where the answer to a making is lost, it is looked for first.

    MLflow's own client would ask for it again, and have two.
    """
    from mlflow.exceptions import MlflowException

    for pause in (*PAUSES, None):
        if (found := find()) is not None:
            return found
        try:
            with _asking_once():
                return make()
        except MlflowException:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last pause is None")


@contextlib.contextmanager
def _asking_once() -> Iterator[None]:
    """MLflow's client, which reads this variable at each request, does not try again."""
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[RETRIES]
        else:
            os.environ[RETRIES] = before


class Run:
    """An MLflow run that can be opened, and told the same thing, more than once.

    `finished` is when it was finished, in ms: the run of an earlier pipeline run that came to this very evaluation.
    What records an evaluation then records nothing; MLflow would take a run that is written to for a longer one.
    """

    def __init__(self, client, run_id: str, finished: int | None = None):
        self.client, self.id, self.finished = client, run_id, finished
        self.sending: threading.Thread | None = None

    @classmethod
    @answering()
    def open(cls, training_digest: str, evaluation_digest: str = "") -> "Run":
        """The run of this pipeline run.

        In this order: the one in MLFLOW_RUN_ID; the one this pipeline run (KFP_RUN_ID) already has; the one that
        holds this very evaluation; one that the same training left unfinished when it was killed; a new one.

        Raises:
            StepError: MLflow does not answer, or there is no such run.
        """
        import mlflow

        kfp_run = os.environ.get("KFP_RUN_ID", "")
        name, tags = run_name.read_name(), {**code_lineage(), "training_digest": training_digest}
        client = mlflow.MlflowClient()
        if given := os.environ.get("MLFLOW_RUN_ID"):
            run_id, name = client.get_run(given).info.run_id, ""
        else:
            experiment = _experiment()
            number = experiment.experiment_id
            if KIND not in experiment.tags:
                client.set_experiment_tag(number, KIND, "custom_model_development")
            run_id = made_once(
                lambda: _find(client, number, kfp_run, training_digest, evaluation_digest),
                lambda: client.create_run(number, run_name=name or None, tags=tags).info.run_id,
            )
        found = client.get_run(run_id)
        if _is_finished(found, evaluation_digest):
            return cls(client, run_id, found.info.end_time)
        client.update_run(run_id, status="RUNNING", name=name or None)
        run = cls(client, run_id)
        run.tags(tags)
        return run

    def tags(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_tag(self.id, key, str(value))

    @answering()
    def params(self, params: dict[str, Any]) -> None:
        """Log parameters; one that is there already with another value keeps its first and is named in the log."""
        from mlflow.entities import Param

        have = self.client.get_run(self.id).data.params
        for key, value in params.items():
            if have.get(key, str(value)) != str(value):
                logging.warning("MLflow keeps %s=%s of the interrupted run, now %s", key, have[key], value)
        new = [Param(k, str(v)) for k, v in params.items() if k not in have]
        if new:
            self.client.log_batch(self.id, params=new)

    def epochs(self, history: list[dict[str, float]]) -> None:
        """Log the epochs that MLflow does not have yet, in order: after a kill or an outage none is lost or doubled."""
        if self.sending:
            self.sending.join()
        self._send(history)

    def epochs_meanwhile(self, history: list[dict[str, float]]) -> None:
        """`epochs` while training goes on; what MLflow does not take now, it gets with a later epoch or at the end."""
        if self.sending and self.sending.is_alive():
            return

        def send(rows: list[dict[str, float]]) -> None:
            try:
                self._send(rows)
            except Exception as error:  # whatever it is, it is no reason to lose a training
                logging.warning("MLflow takes no metrics now, training goes on: %s", str(error)[:200])

        self.sending = threading.Thread(target=send, args=(list(history),), daemon=True, name="epochs to MLflow")
        self.sending.start()

    def _send(self, history: list[dict[str, float]]) -> None:
        from mlflow.entities import Metric

        have = {m.step for m in self.client.get_metric_history(self.id, EPOCH_METRICS[-1])}
        for row in history:
            if row["epoch"] not in have:
                stamp = int(row["time"] * 1000)
                self.client.log_batch(self.id, metrics=[Metric(k, row[k], stamp, row["epoch"]) for k in EPOCH_METRICS])

    def metrics(self, metrics: dict[str, float]) -> None:
        """Log metrics without steps; one that is there already with this value is not logged again."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        have, now = self.client.get_run(self.id).data.metrics, get_current_time_millis()
        self.client.log_batch(self.id, metrics=[Metric(k, v, now, 0) for k, v in metrics.items() if have.get(k) != v])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.id, str(path), folder)

    def text(self, text: str, file: str) -> None:
        self.client.log_text(self.id, text, file)

    def has(self, tag: str, value: str | None = None) -> bool:
        """Whether it has the tag, with this value where one is given."""
        tags = self.client.get_run(self.id).data.tags
        return tag in tags and value in (None, tags[tag])

    def finish(self, status: str = "FINISHED") -> None:
        """End it; one that was finished before keeps its end."""
        self.client.set_terminated(self.id, status, end_time=self.finished)


def _is_finished(run, evaluation_digest: str) -> bool:
    holds_it = bool(evaluation_digest) and run.data.tags.get("evaluation_digest") == evaluation_digest
    return holds_it and run.info.status == "FINISHED"


def experiment_name() -> str:
    """Return the name of the runs' experiment (MLFLOW_EXPERIMENT_NAME)."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def _experiment():
    """The experiment of the runs, which is made where it is missing.

    Raises:
        StepError: it was deleted in MLflow.
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
            f"the experiment {found.name} was deleted in MLflow at {uri}. Restore it with its runs, then run again, "
            f"what is done is kept: {login}{past_proxies}MLFLOW_TRACKING_URI={uri} "
            f".venv/bin/mlflow experiments restore --experiment-id {found.experiment_id}"
        ) from None


def _find(client, experiment_id: str, kfp_run: str, training_digest: str, evaluation_digest: str) -> str | None:
    conditions = [
        kfp_run and f"tags.kfp_run_id = '{kfp_run}'",
        evaluation_digest and f"tags.evaluation_digest = '{evaluation_digest}'",
        f"tags.training_digest = '{training_digest}' and attributes.status != 'FINISHED'",
    ]
    for condition in filter(None, conditions):
        for run in client.search_runs([experiment_id], condition):
            if condition == conditions[-1] and "evaluation_digest" in run.data.tags:  # a version's already
                continue
            if run.info.status != "FINISHED" or _is_finished(run, evaluation_digest):
                return run.info.run_id
    return None


def champion(client):
    """The version that the alias champion names in the registry; None where it names none.

    Raises:
        StepError: MLflow does not answer.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        found = client.search_registered_models(f"name = '{MODEL_NAME}'")
        version = found[0].aliases.get("champion") if found else None
        return client.get_model_version(MODEL_NAME, version) if version else None
    except MlflowException as error:
        raise StepError(
            f"MLflow at {mlflow.get_tracking_uri()}: {str(error)[:300]}. Check MLFLOW_TRACKING_URI, or: make up."
        ) from error


def code_lineage() -> dict[str, str]:
    """Which code runs, and in which pipeline run: git commit, image tag, KFP's id of the run and its page."""
    page = run_name.page()
    lineage = {tag: os.environ[name] for name, tag in LINEAGE.items() if os.environ.get(name)}
    return lineage | ({"kfp_page": page} if page else {})


def data_lineage(cases: Path, split: Path) -> dict[str, str]:
    """Which data: version and split, and whether they are synthetic."""
    facts, parts = json.loads((cases / "cases.json").read_text()), json.loads(split.read_text())
    lineage = {"data_version": facts["data_version"], "split_digest": parts["digest"]}
    if "lineage_digest" in parts:
        lineage["split_lineage"] = parts["lineage_digest"]
    return lineage | (synthetic.TAG if facts["synthetic"] else {})


def data_params(cases: Path, split: Path) -> dict[str, Any]:
    """What the data are, as parameters: address, ratios, patients and scans per subset."""
    parts, facts = json.loads(split.read_text()), json.loads((cases / "cases.json").read_text())
    params: dict[str, Any] = {name: facts[name] for name in ("data_uri", "b_value", "modality_check") if name in facts}
    for subset, ratio in parts["ratios_asked"].items():
        params[f"{subset}_ratio"] = ratio
        params[f"{subset}_patients"] = len(parts["patients"][subset])
        params[f"{subset}_scans"] = len(parts["cases"][subset])
    if "carry_split" in parts:
        params["carry_split"] = parts["carry_split"]
    return params


@answering()
def record_inputs(run: Run, cases: Path, split: Path, page: Path) -> None:
    """Log what the run learns from: data version, split, patient and scan counts, the data report."""
    if run.finished:
        return
    run.params(data_params(cases, split))
    run.tags(data_lineage(cases, split))
    run.text(split.read_text(), "split.json")
    run.text(page.read_text(), "data_report.html")


@answering()
def record_training(run: Run, model: Path) -> None:
    """Log a finished training from its artifact: parameters, epochs, curve, weights. Nothing is logged twice."""
    if run.has("training_recorded"):
        return
    facts = json.loads((model / "model.json").read_text())
    run.params(facts["params"])
    run.epochs(json.loads((model / "history.json").read_text()))
    run.metrics({name: facts[name] for name in COST if name in facts})
    for name in ("training_curve.png", "best_model.pth", "model.json"):
        run.artifact(model / name)
    run.tags({"training_recorded": "true"})


@answering()
def record_page(run: Run, page: Path) -> None:
    """Log the evaluation's page."""
    if not run.finished:
        run.text(page.read_text(), "evaluation.html")


@answering()
def record_evaluation(run: Run, model: Path, evaluation: Path) -> None:
    """Log an evaluation from its artifact: metrics, overlays, every scan's digests. Nothing is logged twice."""
    digest = evaluation_digest(model, evaluation)
    if run.client.get_run(run.id).data.tags.get("evaluation_digest") == digest:
        return
    measured = json.loads((evaluation / "test_metrics.json").read_text())
    run.metrics({**measured["summary"], "threshold": measured["threshold"]})
    for name in ("test_metrics.json", "cases.json", "split.json"):
        run.artifact(evaluation / name)
    for path in sorted((evaluation / "test_predictions").iterdir()):
        run.artifact(path, "test_predictions")
    run.tags({"evaluation_digest": digest})


@answering()
def record_comparison(run: Run, evaluation: Path) -> None:
    """Log how the champion did on the same test patients; until the run is finished the newest comparison is kept."""
    if not run.finished:
        run.artifact(evaluation / "comparison.json")


def evaluation_digest(model: Path, evaluation: Path) -> str:
    """SHA-256 over the weights, what it takes to use them, and what their masks came to.

    Probabilities are left out: on another processor their last digit is another, and the model still the same.
    """
    facts = json.loads((model / "model.json").read_text())
    measured = json.loads((evaluation / "test_metrics.json").read_text())
    decides = [
        file_sha256(model / "best_model.pth"),
        facts["threshold"],
        facts["training_digest"],
        [[case.get(name) for name in OF_MASKS] for case in measured.get("cases", [])],
    ]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()
