"""`make pipeline-logs`: print what the steps of a run wrote, on this machine or on a cluster."""

from pathlib import Path

from components.core.errors import StepError
from pipelines.atomic_write import read_json
from pipelines.cluster.connect import TARGETS, connect
from pipelines.cluster.pod_logs import print_pod_logs
from pipelines.local.run_lock import is_running
from pipelines.local.run_log import LOG, newest_run, print_log
from pipelines.pipeline import EVERY_STEP, STEPS


def pipeline_logs(run: str, step: str, follow: bool, target: str, state: Path, raw: bool = False) -> int:
    """Print the log of `run` (a run's name, or a KFP run id with TARGET; the last run where empty), or of one step.

    A pod's log is reduced to the lines of the step itself; `raw` prints all lines. Returns the exit code.

    Raises:
        StepError: no such run or step, or its log is gone.
    """
    if step and step not in EVERY_STEP:
        more = "with FOLDS also train-fold-1, ..., ensemble"
        raise StepError(f"unknown STEP '{step}'. Steps: {', '.join(STEPS)}; {more}.")
    try:
        summary = _find_run(run, target, state)
        if "kfp_run_id" not in summary:
            print_log(summary["run_id"], step, follow, state)
            return 0
        with connect(summary["target"], summary.get("kube_context") or "") as cluster:
            cluster.namespace = summary.get("namespace") or cluster.namespace
            print_pod_logs(cluster, summary["kfp_run_id"], step, follow, raw)
    except KeyboardInterrupt:
        if not follow:
            raise
        print("\nstopped following the log. The run itself continues.", flush=True)
        return 130
    return 0


def _find_run(run: str, target: str, state: Path) -> dict:
    """Return the summary of the run that the user asks for; only its ids while it has no summary."""
    last = state / "last-run.json"
    if not run and is_running(state):
        return {"run_id": newest_run(state)}
    if not run:
        if not last.exists():
            raise StepError("there was no run here yet. Start one: make pipeline-run")
        return read_json(last)
    folder = state / "runs" / run
    if (folder / LOG).exists():
        return {"run_id": run}
    if (folder / "summary.json").exists():
        return read_json(folder / "summary.json")
    if target in TARGETS:
        return {"kfp_run_id": run, "target": target}
    newest = sorted(path.name for path in (state / "runs").glob("*"))[-5:]
    raise StepError(
        f"there was no run '{run}' here; the last ones: {', '.join(newest) or 'none'}. For a run that another person "
        "started on a cluster, give its KFP run id and TARGET=kind or TARGET=cluster."
    )
