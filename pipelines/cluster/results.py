"""What a run on a cluster came to: MLflow's registry holds it, under the KFP run's id."""

import datetime

from components.core.step import StepError
from components.registry.tracking import EPOCH_METRICS, EXPERIMENT, MODEL_NAME, PIPELINE_RUNS
from pipelines.summary import links


def results(uri: str, kfp_run_id: str, started: datetime.datetime) -> dict:
    """What the summary of a run that succeeded says of data, model and metrics.

    Raises:
        StepError: MLflow is not to be had, or holds nothing of this run.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(uri)
    try:
        version = _version(client, kfp_run_id)
        run = client.get_run(version.run_id)
        aliases = client.get_registered_model(MODEL_NAME).aliases
        experiment = client.get_experiment(run.info.experiment_id).name
    except (MlflowException, LookupError) as error:
        said = " ".join(str(error).split())[:300]
        raise StepError(
            f"the run succeeded, but its results cannot be read from MLflow at {uri}: {said}. Is it up, is "
            "MLFLOW_TRACKING_URI the one that the steps log to (ConfigMap dwi-stroke-settings), do you have access?"
        ) from error
    number = str(version.version)
    return {
        "data_version": run.data.tags.get("data_version", ""),
        "experiment": experiment,
        "experiment_id": run.info.experiment_id,
        "mlflow_run_id": run.info.run_id,
        "model": {
            "name": MODEL_NAME,
            "version": number,
            "aliases": ",".join(sorted(alias for alias, v in aliases.items() if str(v) == number)),
        },
        "decision": version.tags.get("decision", ""),
        "new_version": version.creation_timestamp >= started.timestamp() * 1000,
        "metrics": {name: value for name, value in run.data.metrics.items() if name.startswith("test_")},
        "synthetic": "data" in run.data.tags,
        "links": links(uri, run.info.experiment_id, run.info.run_id, MODEL_NAME, number),
    }


def close(uri: str, kfp_run_id: str, status: str) -> None:
    """The MLflow run of a run that did not end well does not stay "RUNNING"."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(uri)
    try:
        run = _run(client, kfp_run_id)
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, status)
    except LookupError:
        pass  # it ended before there was one
    except MlflowException as error:
        print(f"MLflow could not be told that the run {status.lower()}: {' '.join(str(error).split())[:200]}")


def epochs_done(uri: str, kfp_run_id: str) -> int:
    """The last epoch of the run's training that MLflow has; 0 where it has none, or does not answer."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(uri)
    try:
        run = _run(client, kfp_run_id)
        return max((m.step for m in client.get_metric_history(run.info.run_id, EPOCH_METRICS[-1])), default=0)
    except (LookupError, MlflowException):
        return 0


def _run(client, kfp_run_id: str):
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.kfp_run_id = '{kfp_run_id}'", max_results=1)
    if not found:
        raise LookupError(f"no run there has the tag kfp_run_id={kfp_run_id} (experiment {EXPERIMENT})")
    return found[0]


def _version(client, kfp_run_id: str):
    """The version that this run came to; its MLflow run may be an earlier one's, where nothing had changed."""
    for version in client.search_model_versions(f"name = '{MODEL_NAME}'"):
        if kfp_run_id in version.tags.get(PIPELINE_RUNS, "").split(","):
            return version
    raise LookupError(f"no version of {MODEL_NAME} there has {kfp_run_id} in its tag {PIPELINE_RUNS}")
