"""`make pipeline-run` on this machine: services, data, the run, and a summary that a person can read."""

import datetime
import hashlib
import json
import logging
import secrets
import shutil
import sys
import time
from pathlib import Path

from components.core.settings import Settings
from components.core.step import StepError, without_logins
from components.registry import tracking
from pipelines import mlflow_link
from pipelines.atomic_write import identity, read_json, write_json
from pipelines.image_tags import code, commit
from pipelines.local import services
from pipelines.local.containers import ContainerRun
from pipelines.local.kfp_local import LocalRun, StepFailed, alone
from pipelines.summary import links, save, show
from pipelines.upload import upload

KINDS = {kind.target: kind for kind in (LocalRun, ContainerRun)}
"""How TARGET runs the steps on this machine: as processes, or each in its container."""


def pipeline_run(data: str, preset: str, settings: Settings, state: Path, kind: type[LocalRun] = LocalRun) -> None:
    """The whole of it; leaves `runs/<run id>/summary.json` and `last-run.json` under `state`.

    Raises:
        StepError: what went wrong, in words.
    """
    with alone(state):
        start, started = time.perf_counter(), time.time()
        environment = use_services(state)
        data_uri = data if data.startswith("s3://") else upload(Path(data) if data else demo_scans(state), state)
        _close_killed(state)
        folder = _own_folder(state, f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{preset}")
        run_id = folder.name
        print(f"run {run_id}: preset {preset}, data {data_uri}", flush=True)
        summary = {
            "run_id": run_id, "status": "running", "target": kind.target, "preset": preset, "data_uri": data_uri,
            "settings": settings.model_dump(), "mlflow_tracking_uri": environment["MLFLOW_TRACKING_URI"],
            "experiment": tracking.experiment_name(), "code": code(), "state": identity(state),
        }  # fmt: skip
        write_json(folder / "summary.json", summary)
        summary["status"] = "failed"
        with (folder / "log.txt").open("w") as log:
            run = kind(run_id, folder, {**environment, "GIT_COMMIT": commit()}, log)
            try:
                arguments = {"data_uri": data_uri, **settings.model_dump()}
                cache = _cache(state, environment)
                run.execute(arguments, _artifacts(state, environment), cache)
                if stale := _overtaken(run):
                    _forget(run.steps[stale].outputs, cache)
                    run.steps.clear()
                    run.execute(arguments, _artifacts(state, environment), cache)
                summary |= _results(run, started) | {"status": "succeeded"}
            except KeyboardInterrupt:
                summary["status"] = "stopped"
                raise
            except StepFailed:
                print(f"whole log: {folder / 'log.txt'}", flush=True)
                raise
            finally:
                summary["steps"] = {
                    name: {"state": s.state, "seconds": round(s.seconds, 2), "cached": s.cached}
                    for name, s in run.steps.items()
                }
                summary["wall_seconds"] = round(time.perf_counter() - start, 2)
                save(summary, state)
                if summary["status"] != "succeeded":
                    _close_tracking(run_id, {"failed": "FAILED", "stopped": "KILLED"}[summary["status"]])
        show(summary, state)
        mlflow_link.show(environment["MLFLOW_TRACKING_URI"])
        print("  next   make predict INPUT=scan.nii.gz OUTPUT=mask.nii.gz")


def _own_folder(state: Path, name: str) -> Path:
    """`runs/<name>-<four letters>`, new: the name is this run's alone, among checkouts and whatever the clock says."""
    folder = state / "runs" / f"{name}-{secrets.token_hex(2)}"
    folder.mkdir(parents=True)
    return folder


def _close_killed(state: Path) -> None:
    """Note of each run that was killed that it was, here and in MLflow, and remove what it left in its folder.

    In a copy of the state folder a run of the original's may go on: that one MLflow is told nothing of.
    """
    for path in (state / "runs").glob("*/summary.json"):
        try:
            summary = read_json(path)
        except StepError as error:
            logging.warning("%s", error)
            continue
        ours = summary["status"] == "running" and summary["target"] in KINDS
        copied = summary.get("state", identity(state)) != identity(state)
        if ours and (copied or _close_tracking(summary["run_id"], "KILLED")):
            shutil.rmtree(path.parent / "tmp", ignore_errors=True)
            write_json(path, summary | {"status": "killed"})


def use_services(state: Path) -> dict[str, str]:
    """Start or find S3 and MLflow, and point this process at them."""
    import os

    environment = services.up(state)
    os.environ.update(environment)
    os.environ.setdefault("SCRATCH_DIR", str(state / "scratch"))
    return environment


def demo_scans(state: Path) -> Path:
    """The synthetic scans, made where they are not there yet."""
    from pipelines.demo.scans import write_demo_scans

    folder = state / "demo-scans"
    logging.info(
        "no DATA given: using SYNTHETIC demo scans in %s (no patients; numbers show the way, not a result)", folder
    )
    write_demo_scans(folder)
    return folder


def _results(run: LocalRun, started: float) -> dict:
    import mlflow

    registered, client = run.steps["register"].outputs, mlflow.MlflowClient()
    tracking_uri = run.environment["MLFLOW_TRACKING_URI"]
    measured = _evaluated(run, "test_metrics.json")
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
        "metrics": measured["summary"],
        "synthetic": measured["synthetic"],
        "links": links(tracking_uri, experiment_id, registered["run_id"], registered["name"], registered["version"]),
    }


def _overtaken(run: LocalRun) -> str:
    """The first step whose cached outputs the registry has overtaken since; "" where there is none."""
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
    champion, comparison = tracking.champion(client), _evaluated(run, "comparison.json")
    if champion is None or str(champion.version) == registered["version"] or not run.steps["evaluate"].cached:
        return ""
    if champion.source == comparison["model"] and comparison.get("pairs") is not None:
        return ""
    print(f"version {champion.version} is champion now: evaluating it on the same test patients", flush=True)
    return "evaluate"


def _evaluated(run: LocalRun, name: str) -> dict:
    return json.loads((Path(run.steps["evaluate"].outputs["evaluation"].path) / name).read_text())


def _forget(outputs: dict, cache: Path) -> None:
    """Take a step's outputs out of kfp.local's cache, which keeps an artifact as a dictionary with its address."""
    plain = {name: getattr(value, "uri", value) for name, value in outputs.items()}
    for path in cache.glob("*.json"):
        kept = json.loads(path.read_text())
        if plain == {name: value["uri"] if isinstance(value, dict) else value for name, value in kept.items()}:
            path.unlink()


def _artifacts(state: Path, environment: dict[str, str]) -> Path:
    """Where kfp.local keeps what passes between steps: inside the embedded S3, or beside an external one."""
    embedded = environment.get("S3_ENDPOINT_URL", "").startswith("http://127.0.0.1") and (state / "s3").is_dir()
    return state / "s3" / environment["S3_BUCKET"] / "artifacts" if embedded else state / "artifacts"


def _cache(state: Path, environment: dict[str, str]) -> Path:
    """One cache per pair of servers: what was registered in one registry is not in another."""
    servers = json.dumps([environment.get("S3_ENDPOINT_URL"), environment["MLFLOW_TRACKING_URI"]])
    return state / "cache" / hashlib.sha256(servers.encode()).hexdigest()[:12]


def _close_tracking(run_id: str, status: str) -> bool:
    """The MLflow run of a run that did not end well does not stay "RUNNING"; whether MLflow could be told."""
    import mlflow

    try:
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(tracking.experiment_name())
        mine = f"tags.kfp_run_id = '{run_id}' and attributes.status = 'RUNNING'"
        for found in client.search_runs([experiment.experiment_id], mine) if experiment else []:
            client.set_terminated(found.info.run_id, status)
    except Exception as error:
        print(without_logins(f"MLflow could not be told that the run {status.lower()}: {error}"), file=sys.stderr)
        return False
    return True
