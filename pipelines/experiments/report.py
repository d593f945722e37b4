"""What the experiments leave behind: the comparison in the terminal, as a page and numbers here, as a run in MLflow."""

import datetime
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

from components.artifacts import synthetic
from components.core.step import StepError
from components.registry.tracking import TRAINING_VIEW
from pipelines.atomic_write import write_json
from pipelines.experiments.compare import METRICS, Unlike
from pipelines.experiments.comparison_page import page
from pipelines.experiments.comparison_table import table
from pipelines.experiments.run_results import Outcome

MOST_WORDS = 300


def report(comparison: dict, unlike: list[Unlike], over: str, baseline: Outcome, client, state: Path) -> None:
    """Show the comparison and keep it; `over` is the preset that is called baseline.

    Raises:
        StepError: MLflow did not take it; what is kept here is there by then.
    """
    from mlflow.exceptions import MlflowException

    comparison |= {"over": over, "left_out": [asdict(run) for run in unlike]}
    folder = _kept(comparison, page(comparison, unlike, over), state)
    print(f"\n\n{table(comparison, unlike)}\n\n  page    {folder / 'page.html'}")
    print(f"  numbers {folder / 'comparison.json'}", flush=True)
    try:
        print(f"  MLflow  {_logged(client, baseline, comparison, folder)}", flush=True)
    except (MlflowException, OSError) as error:
        said = " ".join(str(error).split())[:MOST_WORDS]
        where = client.tracking_uri
        raise StepError(
            f"MLflow at {where} did not take the comparison: {said}. Run the same command again."
        ) from error


def _digest(comparison: dict) -> str:
    """Of the runs that were compared: the same ones again are the same experiment."""
    runs = {name: preset["runs"] for name, preset in comparison["presets"].items()}
    return hashlib.sha256(json.dumps([runs, comparison["left_out"]], sort_keys=True).encode()).hexdigest()


def _kept(comparison: dict, html: str, state: Path) -> Path:
    folder = state / "experiments" / f"{comparison['over']}-{_digest(comparison)[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", comparison)
    (folder / "page.html").write_text(html)
    return folder


def _logged(client, baseline: Outcome, comparison: dict, folder: Path) -> str:
    """Log it as a run of its own, once for the same runs; its address."""
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
            known = {n: difference.get(n) for n in ("mean", "ci_low", "ci_high")}
            numbers |= {f"{metric}_difference_{n}": value for n, value in known.items() if value is not None}
    return numbers
