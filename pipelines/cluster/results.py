"""Read the results of a run on a cluster from MLflow's registry, by the id of the KFP run."""

import datetime

from components.core.errors import StepError
from components.registry.tracking import EPOCH_METRICS, EXPERIMENT, MODEL_NAME, PIPELINE_RUNS
from pipelines.summary import links


def results(uri: str, kfp_run_id: str, started: datetime.datetime) -> dict:
    """Return the part of the summary that only a run that succeeded has: data, model and metrics.

    Raises:
        StepError: MLflow does not answer, or has no result of this run.
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
        reason = " ".join(str(error).split())[:300]
        raise StepError(
            f"the run succeeded, but its results cannot be read from MLflow at {uri}: {reason}. Does it "
            "run, do the steps log to the same MLflow (ConfigMap dwi-stroke-settings), and do you have access?"
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
        "patients": sum(int(count) for name, count in run.data.params.items() if name.endswith("_patients")),
        "synthetic": "data" in run.data.tags,
        "links": links(uri, run.info.experiment_id, run.info.run_id, MODEL_NAME, number),
    }


def close(uri: str, kfp_run_id: str, status: str) -> None:
    """End the open MLflow runs of a run that did not succeed."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(uri)
    try:
        for run in _runs(client, kfp_run_id):
            if run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, status)
    except LookupError:
        pass  # the run ended before it had an MLflow run
    except MlflowException as error:
        print(f"MLflow did not take the status {status} of this run: {' '.join(str(error).split())[:200]}")


def epochs_done(uri: str, kfp_run_id: str) -> int:
    """Return the last epoch that MLflow has of the run's training; 0 where it has none, or does not answer."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(uri)
    try:
        run, *_ = _runs(client, kfp_run_id)
        return max((m.step for m in client.get_metric_history(run.info.run_id, EPOCH_METRICS[-1])), default=0)
    except (LookupError, MlflowException):
        return 0


def _runs(client, kfp_run_id: str) -> list:
    """Return the MLflow runs of a pipeline run: with folds, also that of each network."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.kfp_run_id = '{kfp_run_id}'")
    if not found:
        raise LookupError(f"no run has the tag kfp_run_id={kfp_run_id} (experiment {EXPERIMENT})")
    return found


def _version(client, kfp_run_id: str):
    """Return the model version of this run; an earlier run registered it where nothing has changed since."""
    for version in client.search_model_versions(f"name = '{MODEL_NAME}'"):
        if kfp_run_id in version.tags.get(PIPELINE_RUNS, "").split(","):
            return version
    raise LookupError(f"no version of {MODEL_NAME} has {kfp_run_id} in its tag {PIPELINE_RUNS}")
