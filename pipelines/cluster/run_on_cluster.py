"""`make pipeline-run` on a cluster: compile, upload changes, start, watch, and write the summary."""

import datetime
import sys
import time
from pathlib import Path
from typing import Any

from components.core.errors import StepError
from components.core.settings import Settings
from components.registry.tracking import EXPERIMENT
from pipelines import mlflow_link
from pipelines.cluster import argo_retries, kind
from pipelines.cluster.api import Api
from pipelines.cluster.connect import Connection, connect
from pipelines.cluster.kubernetes import compile_pipeline
from pipelines.cluster.results import close, epochs_done, results
from pipelines.cluster.run_pods import report, step_of
from pipelines.cluster.steps import outcome
from pipelines.cluster.storage import data_address
from pipelines.cluster.watch import Watch
from pipelines.image_tags import ROOT, code, commit, sources_tag
from pipelines.pipeline import DESCRIPTION, NAME, READ_ON, TRAIN_FOLDS, folds_asked
from pipelines.summary import save, show

COMPILED = ROOT / "build" / "pipeline.yaml"


class RunFailed(StepError):
    """A step ended with an error; the message is the step's own."""


def pipeline_run(target: str, data: str, preset: str, settings: Settings, state: Path) -> int:
    """Run the pipeline; write `runs/<run id>/summary.json` and `last-run.json` below `state`. Return the exit code.

    Raises:
        StepError: the cluster or MLflow does not answer, the data cannot be uploaded, or a step failed.
    """
    folds = folds_asked()
    with connect(target) as cluster:
        start = time.perf_counter()
        if target == "kind":
            kind.provide_image()
        api, version, version_name = upload_pipeline(cluster)
        tracking_uri = cluster.mlflow_url  # connects before the run starts
        data_uri = data_address(data, state, cluster)
        run_id = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{preset}"
        arguments = {"data_uri": data_uri, **settings.model_dump()}
        run = api.start(run_id, api.experiment(EXPERIMENT), version, arguments)
        page = f"{cluster.kfp_url}/#/runs/details/{run.run_id}"
        print(f"run {run_id}: preset {preset}, data {data_uri}\n  {page}", flush=True)
        if line := argo_retries.note(cluster.core, cluster.system_namespace):
            print(f"  {line}", flush=True)
        summary: dict[str, Any] = {
            "run_id": run_id, "kfp_run_id": run.run_id, "status": "running", "target": target,
            "kube_context": cluster.context, "namespace": cluster.namespace, "kfp_host": cluster.kfp_url,
            "pipeline_version": version_name, "preset": preset, "data_uri": data_uri,
            "settings": settings.model_dump(), "folds": folds, "mlflow_tracking_uri": tracking_uri,
            "experiment": EXPERIMENT,
            "code": code(), "links": {"kfp": page}, "steps": {}, "wall_seconds": 0.0,
        }  # fmt: skip
        save(summary, state)
        watch = Watch(api, cluster, run.run_id)
        try:
            over = watch.until_over()
            summary["status"] = outcome(over)
            if summary["status"] == "succeeded":
                found = results(tracking_uri, run.run_id, over.created_at)
                summary |= found | {"links": found["links"] | summary["links"]}
        except KeyboardInterrupt:
            summary["status"] = _leave_or_stop(api, cluster, summary)
            return 130
        except StepError as error:
            if summary["status"] == "running":
                raise StepError(f"{error}\nThe run itself continues. {_how_to_follow(cluster, summary)}") from error
            raise
        finally:
            summary["steps"] = {
                name: {"state": s.state, "seconds": s.seconds, "cached": s.cached} for name, s in watch.steps.items()
            }
            summary["wall_seconds"] = round(time.perf_counter() - start, 2)
            save(summary, state)
        if summary["status"] != "succeeded":
            close(tracking_uri, run.run_id, {"failed": "FAILED", "stopped": "KILLED"}[summary["status"]])
            raise _failure(watch, cluster, summary)
        show(summary, state)
        if tracking_uri not in cluster.reopen:
            mlflow_link.show(tracking_uri, target)
        _print_port_forwards(cluster)
        print(f"  next   make predict {cluster.arguments} INPUT=scan.nii.gz OUTPUT=mask.nii.gz")
        return 0


def upload_pipeline(cluster: Connection) -> tuple[Api, object, str]:
    """Compile the pipeline and upload it if it has changed; return the API, the version and its name."""
    api = Api(cluster.kfp_url, kind=cluster.target == "kind")
    api.check()
    compile_pipeline(COMPILED, kind=cluster.target == "kind")
    description = f"{DESCRIPTION} Images {sources_tag()}, commit {commit() or 'unknown'}. {READ_ON}"
    version, name, new = api.pipeline_version(NAME, COMPILED, description)
    print(f"pipeline {NAME}, version {name} ({'uploaded' if new else 'unchanged'})", flush=True)
    return api, version, name


def _failure(watch: Watch, cluster: Connection, summary: dict) -> StepError:
    """Print the log and the events of the failed pod; return the error."""
    logs = f"make pipeline-logs RUN={summary['run_id']}"
    if summary["status"] == "stopped":
        return RunFailed(f"the run was stopped on the cluster. Run the same command to continue. Its logs: {logs}")
    step = next((name for name, s in watch.steps.items() if s.state == "failed"), None)
    print(f"whole log: {logs}{f' STEP={step}' if step else ''}", flush=True)
    _print_port_forwards(cluster)
    lines = [*_reason(watch, step, summary)]
    if step == "train" and (epochs := epochs_done(summary["mlflow_tracking_uri"], summary["kfp_run_id"])):
        lines.append(f"The same command continues after epoch {epochs}.")
    if step in TRAIN_FOLDS:
        lines.append("The same command continues after the last epoch of this fold.")
    return RunFailed("\n".join(lines))


def _reason(watch: Watch, step: str | None, summary: dict) -> list[str]:
    """Return why the run failed; print the log of its pod."""
    if watch.core is None:
        return [f"{step or 'the run'} failed. Its log: {summary['links']['kfp']} (no kube context here)"]
    pods = [pod for pod in watch.pods() if pod.status.phase == "Failed" and (not step or step_of(pod) == step)]
    if not pods:
        return [
            f"{step or 'the run'} failed, and its pod and log are gone (deleted, or its node is lost). Look at "
            f"{summary['links']['kfp']}; if it fails again, make pipeline-logs FOLLOW=1 shows the log while it runs."
        ]
    shown, error = report(watch.core, pods[-1])
    print("\n".join(f"      {line}" for line in shown), flush=True)
    return error


def _leave_or_stop(api: Api, cluster: Connection, summary: dict) -> str:
    """Ask on a terminal whether the run shall continue; return the run's status."""
    answer = ""
    try:
        if sys.stdin.isatty():
            answer = input("\nLeave the run on the cluster, or stop it? [leave/stop] ")
    except (KeyboardInterrupt, EOFError):
        print()
    if answer.strip().lower() in ("s", "stop"):
        api.stop(summary["kfp_run_id"])
        close(summary["mlflow_tracking_uri"], summary["kfp_run_id"], "KILLED")
        print("stopped. Run the same command again to continue from here.", flush=True)
        return "stopped"
    print(f"\nthe run continues on the cluster. {_how_to_follow(cluster, summary)}", flush=True)
    return "running"


def _how_to_follow(cluster: Connection, summary: dict) -> str:
    follow = f"Follow it: make pipeline-logs RUN={summary['run_id']} FOLLOW=1"
    first = f" (first: {cluster.reopen[cluster.kfp_url]})" if cluster.kfp_url in cluster.reopen else ""
    return f"{follow}\nStop it: Terminate on {summary['links']['kfp']}{first}"


def _print_port_forwards(cluster: Connection) -> None:
    if cluster.reopen:
        print("  the port-forwards to these pages end with this command; to open them again:")
        for command in cluster.reopen.values():
            print(f"    {command}")
