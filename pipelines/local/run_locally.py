"""`make pipeline-run` on this machine: services, data, the run, and its summary."""

import datetime
import hashlib
import json
import logging
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from components.artifacts.split_file import Split
from components.core.errors import StepError
from components.core.settings import Settings
from components.core.step import without_logins
from components.registry import tracking
from pipelines import mlflow_link
from pipelines.atomic_write import identity, read_json, write_json
from pipelines.demo.default_scans import demo_scans
from pipelines.image_tags import code, commit
from pipelines.local import services
from pipelines.local.kfp_local import LocalRun, StepFailed
from pipelines.local.run_lock import only_run
from pipelines.local.run_log import LOG
from pipelines.pipeline import folds_asked
from pipelines.summary import links, save, show
from pipelines.upload import upload

MLFLOW_STATUS = {"failed": "FAILED", "stopped": "KILLED"}
"""By the status of a run that did not succeed."""


def pipeline_run(data: str, preset: str, settings: Settings, state: Path) -> None:
    """Run the pipeline; write `runs/<run id>/summary.json` and `last-run.json` below `state`.

    Raises:
        StepError: a service does not start, the data cannot be uploaded, or a step failed.
    """
    folds = folds_asked()
    with only_run(state):
        start, started = time.perf_counter(), time.time()
        environment = use_services(state)
        data_uri = data if data.startswith("s3://") else upload(Path(data) if data else demo_scans(state), state)
        _close_killed_runs(state)
        folder = _new_folder(state, f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{preset}")
        run_id = folder.name
        print(f"run {run_id}: preset {preset}, data {data_uri}", flush=True)
        summary: dict[str, Any] = {
            "run_id": run_id, "status": "running", "target": LocalRun.target, "preset": preset, "data_uri": data_uri,
            "settings": settings.model_dump(), "folds": folds,
            "mlflow_tracking_uri": environment["MLFLOW_TRACKING_URI"],
            "experiment": tracking.experiment_name(), "code": code(), "state": identity(state),
        }  # fmt: skip
        write_json(folder / "summary.json", summary)
        summary["status"] = "failed"
        with (folder / LOG).open("w") as log:
            run = LocalRun(run_id, folder, {**environment, "GIT_COMMIT": commit()}, log, folds)
            try:
                _execute(run, {"data_uri": data_uri, **settings.model_dump()}, state, environment)
                summary |= _results(run, started) | {"status": "succeeded"}
            except KeyboardInterrupt:
                summary["status"] = "stopped"
                raise
            except StepFailed:
                print(f"whole log: {folder / LOG}", flush=True)
                raise
            finally:
                summary["steps"] = {
                    name: {"state": s.state, "seconds": round(s.seconds, 2), "cached": s.cached}
                    for name, s in run.steps.items()
                }
                summary["wall_seconds"] = round(time.perf_counter() - start, 2)
                save(summary, state)
                if summary["status"] != "succeeded":
                    _close_tracking(run_id, MLFLOW_STATUS[summary["status"]])
        show(summary, state)
        mlflow_link.show(environment["MLFLOW_TRACKING_URI"])
        print("  next   make predict INPUT=scan.nii.gz OUTPUT=mask.nii.gz")


def use_services(state: Path) -> dict[str, str]:
    """Start or find S3 and MLflow, and set the environment of this process to use them."""
    environment = services.up(state)
    os.environ.update(environment)
    os.environ.setdefault("SCRATCH_DIR", str(state / "scratch"))
    return environment


def _new_folder(state: Path, name: str) -> Path:
    """Make `runs/<name>-<four letters>`: the letters keep two runs of one second apart."""
    folder = state / "runs" / f"{name}-{secrets.token_hex(2)}"
    folder.mkdir(parents=True)
    return folder


def _close_killed_runs(state: Path) -> None:
    """Mark each run that was killed, here and in MLflow, and remove its temporary files.

    In a copy of a state folder, a run of the original may still be in progress: its MLflow run stays open.
    """
    for path in (state / "runs").glob("*/summary.json"):
        try:
            summary = read_json(path)
        except StepError as error:
            logging.warning("%s", error)
            continue
        killed = summary["status"] == "running" and "kfp_run_id" not in summary
        copied = summary.get("state", identity(state)) != identity(state)
        if killed and (copied or _close_tracking(summary["run_id"], "KILLED")):
            shutil.rmtree(path.parent / "tmp", ignore_errors=True)
            write_json(path, summary | {"status": "killed"})


def _execute(run: LocalRun, arguments: dict, state: Path, environment: dict[str, str]) -> None:
    """Run the steps, and run them again where the registry has changed since a step's outputs were cached."""
    artifacts, cache = _artifacts(state, environment), _cache(state, environment)
    run.execute(arguments, artifacts, cache)
    if outdated := _outdated_step(run):
        _remove_from_cache(run.steps[outdated].outputs, cache)
        run.steps.clear()
        run.execute(arguments, artifacts, cache)


def _results(run: LocalRun, started: float) -> dict:
    """Return the part of the summary that only a run that succeeded has."""
    import mlflow

    registered, client = run.steps["register"].outputs, mlflow.MlflowClient()
    tracking_uri = run.environment["MLFLOW_TRACKING_URI"]
    metrics = _evaluation(run, "test_metrics.json")
    version = client.get_model_version(registered["name"], registered["version"])
    experiment_id = client.get_run(registered["run_id"]).info.experiment_id
    return {
        "data_version": run.steps["fingerprint"].outputs["data_version"],
        "mlflow_run_id": registered["run_id"],
        "experiment_id": experiment_id,
        "model": {
            "name": registered["name"],
            "version": registered["version"],
            "aliases": ",".join(sorted(version.aliases)),
        },
        "decision": version.tags.get("decision", registered["decision"]),
        "new_version": version.creation_timestamp >= started * 1000,
        "metrics": metrics["summary"],
        "patients": sum(map(len, _split(run).patients.values())),
        "synthetic": metrics["synthetic"],
        "links": links(tracking_uri, experiment_id, registered["run_id"], registered["name"], registered["version"]),
    }


def _outdated_step(run: LocalRun) -> str:
    """Return the first step whose cached outputs no longer fit the registry; "" where all fit."""
    import mlflow
    from mlflow.exceptions import MlflowException

    registered, client = run.steps["register"].outputs, mlflow.MlflowClient()
    if run.steps["register"].cached:
        try:
            client.get_model_version(registered["name"], registered["version"])
            alive = client.get_run(registered["run_id"]).info.lifecycle_stage == "active"
        except MlflowException:
            alive = False
        if not alive:
            print("the registry has changed since: registering again", flush=True)
            return "register"
    champion, comparison = tracking.champion(client), _evaluation(run, "comparison.json")
    if champion is None or str(champion.version) == registered["version"] or not run.steps["evaluate"].cached:
        return ""
    if champion.source == comparison["model"] and comparison.get("pairs") is not None:
        return ""
    print(f"version {champion.version} is champion now: evaluating it on the same test patients", flush=True)
    return "evaluate"


def _evaluation(run: LocalRun, name: str) -> dict:
    return json.loads((Path(run.steps["evaluate"].outputs["evaluation"].path) / name).read_text())


def _split(run: LocalRun) -> Split:
    return Split.read(Path(run.steps["split"].outputs["split"].path))


def _remove_from_cache(outputs: dict, cache: Path) -> None:
    """Remove a step's outputs from the cache of kfp.local, which stores an artifact as a dictionary with its URI."""
    plain = {name: getattr(value, "uri", value) for name, value in outputs.items()}
    for path in cache.glob("*.json"):
        entry = json.loads(path.read_text())
        if plain == {name: value["uri"] if isinstance(value, dict) else value for name, value in entry.items()}:
            path.unlink()


def _artifacts(state: Path, environment: dict[str, str]) -> Path:
    """Return the folder for the steps' artifacts: inside the embedded S3, or beside an external S3."""
    embedded = environment.get("S3_ENDPOINT_URL", "").startswith("http://127.0.0.1") and (state / "s3").is_dir()
    return state / "s3" / environment["S3_BUCKET"] / "artifacts" if embedded else state / "artifacts"


def _cache(state: Path, environment: dict[str, str]) -> Path:
    """Return the cache of this pair of servers: a model registered in one registry is missing in another."""
    servers = json.dumps([environment.get("S3_ENDPOINT_URL"), environment["MLFLOW_TRACKING_URI"]])
    return state / "cache" / hashlib.sha256(servers.encode()).hexdigest()[:12]


def _close_tracking(run_id: str, status: str) -> bool:
    """End the open MLflow run of a run that did not succeed; return whether MLflow answered."""
    import mlflow

    try:
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(tracking.experiment_name())
        open_runs = f"tags.kfp_run_id = '{run_id}' and attributes.status = 'RUNNING'"
        for found in client.search_runs([experiment.experiment_id], open_runs) if experiment else []:
            client.set_terminated(found.info.run_id, status)
    except Exception as error:
        print(without_logins(f"MLflow did not take the status {status} of this run: {error}"), file=sys.stderr)
        return False
    return True
