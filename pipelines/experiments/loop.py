"""`make experiments`: every preset with every seed as a run of the pipeline, and at the end one comparison."""

import datetime
import hashlib
import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from components.core.settings import Settings
from components.core.step import StepError
from components.register import policy
from pipelines import presets
from pipelines.experiments.compare import BASELINE, METRICS, Unlike, compare
from pipelines.experiments.outcomes import Outcome, finished, outcome, summaries
from pipelines.experiments.page import page
from pipelines.experiments.table import table
from pipelines.files import write_json
from pipelines.local.services import ServiceError
from pipelines.targets import Target

MOST_SEEDS = 100
MOST_WORDS = 400
EXAMPLE = 'make experiments PRESETS="n4 loss" SEEDS=3'


@dataclass(frozen=True)
class Planned:
    """One run: its `name` in the comparison, the `preset` that the pipeline is given, its settings."""

    name: str
    preset: str
    settings: Settings

    @property
    def seed(self) -> int:
        return self.settings.random_seed

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def plan(names: list[str], seeds: str, over: str, assignments: str) -> list[Planned]:
    """All presets with the first seed, then all with the next one; `baseline`, which is `over` itself, comes first.

    Raises:
        StepError: an unknown preset, an impossible setting, or a number of seeds that is none.
    """
    if not seeds.isdecimal() or not 1 <= int(seeds) <= MOST_SEEDS:
        raise StepError(f"SEEDS={seeds} is impossible: give a number from 1 to {MOST_SEEDS}. Example: {EXAMPLE}")
    first = presets.load(over, assignments).random_seed
    others = [name for name in dict.fromkeys(names) if name not in (BASELINE, over)]
    return [
        Planned(name, preset, presets.load(preset, f"{assignments} random_seed={seed}"))
        for seed in range(first, first + int(seeds))
        for name, preset in [(BASELINE, over), *((name, f"{over}+{name}") for name in others)]
    ]


def experiments(
    names: list[str], seeds: str, over: str, data: str, assignments: str, target: Target, state: Path
) -> int:
    """Run what is not finished, compare, leave a page and the numbers here and in MLflow; the exit code.

    Raises:
        StepError: the plan is none, or baseline's first run failed: without it there is nothing to compare with.
    """
    planned = plan(names, seeds, over, assignments)
    failed: list[Unlike] = []
    first, done = None, {}
    for number, run in enumerate(planned, start=1):
        print(f"\n{number} of {len(planned)}: {run}", flush=True)
        if run in done:
            print(f"      finished before, in run {done[run]['run_id']}", flush=True)
            continue
        try:
            if code := target.run(data=data, preset=run.preset, settings=run.settings, state=state):
                return code
        except (StepError, ServiceError) as error:
            if first is None:
                raise
            print(f"\n{error}", file=sys.stderr, flush=True)
            failed.append(Unlike(run.name, run.seed, f"failed: {' '.join(str(error).split())[:MOST_WORDS]}"))
            continue
        done[run] = finished(summaries(state), target.name, run.settings)
        if done[run] is None:
            raise StepError("the code was changed while a run went on. Run the same command again: all of it with one.")
        if first is None:  # it came from cache if nothing has changed, and tells which data there are now
            first = done[run]
            done |= _finished_before(planned[1:], first, target, state)
    return _report({run: done[run] for run in planned if run in done}, failed, over, target, state)


def _finished_before(planned: list[Planned], first: dict, target: Target, state: Path) -> dict[Planned, dict]:
    """Which runs need not run again: their code, settings and data are today's, and MLflow still has them."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    runs = summaries(state)
    known = {run: summary for run in planned if (summary := finished(runs, target.name, run.settings, first))}
    if not known:
        return {}

    def is_there(client, summary: dict) -> bool:
        try:
            return client.get_run(summary["mlflow_run_id"]).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    with target.tracking(state) as uri:
        client = MlflowClient(uri)
        return {run: summary for run, summary in known.items() if is_there(client, summary)}


def _report(done: dict[Planned, dict], failed: list[Unlike], over: str, target: Target, state: Path) -> int:
    from mlflow import MlflowClient

    runs, outcomes = summaries(state), []
    with target.tracking(state) as uri:
        client = MlflowClient(uri)
        for run, summary in done.items():
            try:
                outcomes.append(outcome(client, run.name, run.seed, summary, runs))
            except StepError as error:
                if not outcomes:
                    raise
                failed.append(Unlike(run.name, run.seed, str(error)))
        comparison, refused = compare(outcomes, policy.load().minimum_patients)
        unlike = failed + refused
        comparison |= {"over": over, "left_out": [asdict(run) for run in unlike]}
        folder = _kept(comparison, page(comparison, unlike, over), state)
        link = _logged(client, outcomes[0], comparison, folder)
    print(
        f"\n\n{table(comparison, unlike)}\n\n  page    {folder / 'page.html'}\n  numbers {folder / 'comparison.json'}"
    )
    print(f"  MLflow  {link}", flush=True)
    return 1 if unlike else 0


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
        tags |= {"data": "synthetic demo scans, no patients"} if comparison["synthetic"] else {}
        run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    for preset, facts in comparison["presets"].items():
        for metric, value in _numbers(facts).items():
            client.log_metric(run_id, f"{re.sub('[^A-Za-z0-9_.-]', '_', preset)}/{metric}", value)
    for file in ("page.html", "comparison.json"):
        client.log_artifact(run_id, str(folder / file))
    client.set_terminated(run_id)
    return f"{client.tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def _numbers(preset: dict) -> dict[str, float]:
    numbers = {name: preset[name] for name in ("training_seconds", "run_seconds") if preset[name] is not None}
    for metric in METRICS:
        if found := preset["metrics"].get(metric):
            numbers[f"{metric}_mean"] = found["mean"]
            difference = found.get("difference") or {}
            numbers |= {f"{metric}_difference_{n}": difference[n] for n in ("mean", "ci_low", "ci_high") if difference}
    return numbers
