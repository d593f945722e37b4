"""`make experiments`: run the pipeline with every preset and every seed, then compare."""

import sys
from dataclasses import dataclass
from pathlib import Path

from components.core.errors import StepError
from components.core.settings import Settings
from components.core.step import without_logins
from components.register import policy
from pipelines import presets
from pipelines.experiments.compare import BASELINE, LeftOut, compare
from pipelines.experiments.report import report
from pipelines.experiments.run_results import finished_run, is_in_mlflow, read_result, summaries
from pipelines.target import Target

MOST_SEEDS = 100
LONGEST_REASON = 400
EXAMPLE = 'make experiments PRESETS="n4 loss" SEEDS=3'


@dataclass(frozen=True)
class PlannedRun:
    """A run to do: its `name` in the comparison, the `preset` for the pipeline, its settings."""

    name: str
    preset: str
    settings: Settings

    @property
    def seed(self) -> int:
        return self.settings.random_seed

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def plan(names: list[str], seeds: str, base: str, assignments: str) -> list[PlannedRun]:
    """Return all presets with the first seed, then all with the next one. `base` comes first, under the name baseline.

    Raises:
        StepError: a preset is unknown, a setting is impossible, or the number of seeds is invalid.
    """
    if not seeds.isdecimal() or not 1 <= int(seeds) <= MOST_SEEDS:
        raise StepError(f"SEEDS={seeds} is impossible: give a number from 1 to {MOST_SEEDS}. Example: {EXAMPLE}")
    first = presets.load(base, assignments).random_seed
    others = [name for name in dict.fromkeys(names) if name not in (BASELINE, base)]
    return [
        PlannedRun(name, preset, presets.load(preset, f"{assignments} random_seed={seed}"))
        for seed in range(first, first + int(seeds))
        for name, preset in [(BASELINE, base), *((name, f"{base}+{name}") for name in others)]
    ]


def experiments(
    names: list[str], seeds: str, base: str, data: str, assignments: str, target: Target, state: Path
) -> int:
    """Do the runs that are not finished, compare all, and report; return the exit code.

    Raises:
        StepError: the plan is invalid, or the first run of baseline failed, with which all others are compared.
    """
    planned = plan(names, seeds, base, assignments)
    failed: list[LeftOut] = []
    first: dict | None = None
    done: dict[PlannedRun, dict] = {}
    for number, run in enumerate(planned, start=1):
        print(f"\n{number} of {len(planned)}: {run}", flush=True)
        if run in done:
            print(f"      finished before, in run {done[run]['run_id']}", flush=True)
            continue
        try:
            if code := target.run(data=data, preset=run.preset, settings=run.settings, state=state):
                return code
        except StepError as error:
            if first is None:
                raise
            print(f"\n{without_logins(str(error))}", file=sys.stderr, flush=True)
            failed.append(LeftOut(run.name, run.seed, f"failed: {' '.join(str(error).split())[:LONGEST_REASON]}"))
            continue
        summary = finished_run(summaries(state), target.name, run.settings)
        if summary is None:
            raise StepError(
                "The code changed while a run was under way. Run the same command again, so that all runs use one code."
            )
        done[run] = summary
        if first is None:  # its summary names the present version of the data
            first = summary
            done |= _finished_before(planned[1:], first, target, state)
    return _compare_and_report({run: done[run] for run in planned if run in done}, failed, base, target, state)


def _finished_before(planned: list[PlannedRun], first: dict, target: Target, state: Path) -> dict[PlannedRun, dict]:
    """Return the runs that need not run again: same code, settings and data as now, and MLflow still has them."""
    from mlflow import MlflowClient

    runs = summaries(state)
    found = {run: summary for run in planned if (summary := finished_run(runs, target.name, run.settings, first))}
    if not found:
        return {}

    with target.tracking(state) as uri:
        client = MlflowClient(uri)
        return {run: summary for run, summary in found.items() if is_in_mlflow(client, summary)}


def _compare_and_report(
    done: dict[PlannedRun, dict], failed: list[LeftOut], base: str, target: Target, state: Path
) -> int:
    from mlflow import MlflowClient

    runs, results = summaries(state), []
    with target.tracking(state) as uri:
        client = MlflowClient(uri)
        for run, summary in done.items():
            try:
                results.append(read_result(client, run.name, run.seed, summary, runs))
            except StepError as error:
                if not results:
                    raise
                failed.append(LeftOut(run.name, run.seed, str(error)))
        comparison, refused = compare(results, policy.load().minimum_patients)
        report(comparison, failed + refused, base, results[0], client, state)
    return 1 if failed or refused else 0
