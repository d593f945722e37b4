"""Report the comparison: in the terminal, as a page and a JSON file on this machine, and as a run in MLflow."""

import datetime
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.artifacts import synthetic
from components.core.errors import StepError
from components.registry.tracking import TRAINING_VIEW
from pipelines.atomic_write import write_json
from pipelines.experiments.compare import METRICS, LeftOut
from pipelines.experiments.comparison_page import page
from pipelines.experiments.comparison_table import table
from pipelines.experiments.run_results import RunResult

LONGEST_REASON = 300


def report(comparison: dict, left_out: list[LeftOut], base: str, baseline: RunResult, client: Any, state: Path) -> None:
    """Print the comparison and store it; `base` is the preset that is called baseline.

    Raises:
        StepError: MLflow did not accept the comparison. The files on this machine are complete by then.
    """
    from mlflow.exceptions import MlflowException

    comparison |= {"over": base, "left_out": [asdict(run) for run in left_out]}
    folder = _write(comparison, page(comparison, left_out, base), state)
    print(f"\n\n{table(comparison, left_out)}\n\n  page    {folder / 'page.html'}")
    print(f"  numbers {folder / 'comparison.json'}", flush=True)
    try:
        print(f"  MLflow  {_log(client, baseline, comparison, folder)}", flush=True)
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise StepError(
            f"MLflow at {client.tracking_uri} did not accept the comparison: {reason}. Run the same command again."
        ) from error


def _digest(comparison: dict) -> str:
    """Return a digest of the compared runs: the same runs are the same experiment."""
    runs = {name: preset["runs"] for name, preset in comparison["presets"].items()}
    return hashlib.sha256(json.dumps([runs, comparison["left_out"]], sort_keys=True).encode()).hexdigest()


def _write(comparison: dict, html: str, state: Path) -> Path:
    folder = state / "experiments" / f"{comparison['over']}-{_digest(comparison)[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", comparison)
    (folder / "page.html").write_text(html)
    return folder


def _log(client: Any, baseline: RunResult, comparison: dict, folder: Path) -> str:
    """Log the comparison as an MLflow run, once for the same runs, and return its address."""
    experiment, digest = client.get_run(baseline.mlflow_run_id).info.experiment_id, _digest(comparison)
    found = client.search_runs([experiment], f"tags.experiments_digest = '{digest}'", max_results=1)
    if found:
        run_id = found[0].info.run_id
    else:
        name = f"experiments {datetime.datetime.now():%Y-%m-%d %H:%M}"
        tags = {"experiments_digest": digest, "data_version": baseline.data_version}
        tags |= {"split_digest": baseline.split_digest, "over": comparison["over"]}
        tags |= synthetic.TAG if comparison["synthetic"] else {}
        run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    for preset, facts in comparison["presets"].items():
        for metric, value in _numbers(facts).items():
            client.log_metric(run_id, f"{re.sub('[^A-Za-z0-9_.-]', '_', preset)}/{metric}", value)
    for file in ("page.html", "comparison.json"):
        client.log_artifact(run_id, str(folder / file))
    client.set_terminated(run_id)
    return f"{client.tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}{TRAINING_VIEW}"


def _numbers(preset: dict) -> dict[str, float]:
    numbers = {name: preset[name] for name in ("training_seconds", "run_seconds") if preset[name] is not None}
    for metric in METRICS:
        if found := preset["metrics"].get(metric):
            numbers[f"{metric}_mean"] = found["mean"]
            difference = found.get("difference") or {}
            ends = {n: difference.get(n) for n in ("mean", "ci_low", "ci_high")}
            numbers |= {f"{metric}_difference_{n}": value for n, value in ends.items() if value is not None}
    return numbers
