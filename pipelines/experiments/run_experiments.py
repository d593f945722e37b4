"""`make experiments`: every preset with every seed as a run of the pipeline, and at the end one comparison."""

import sys
from dataclasses import dataclass
from pathlib import Path

from components.core.settings import Settings
from components.core.step import StepError, without_logins
from components.register import policy
from pipelines import presets
from pipelines.experiments.compare import BASELINE, Unlike, compare
from pipelines.experiments.report import report
from pipelines.experiments.run_results import finished, outcome, still_there, summaries
from pipelines.target import Target

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
        except StepError as error:
            if first is None:
                raise
            print(f"\n{without_logins(str(error))}", file=sys.stderr, flush=True)
            failed.append(Unlike(run.name, run.seed, f"failed: {' '.join(str(error).split())[:MOST_WORDS]}"))
            continue
        done[run] = finished(summaries(state), target.name, run.settings)
        if done[run] is None:
            raise StepError("the code was changed while a run went on. Run the same command again: all of it with one.")
        if first is None:  # it came from cache if nothing has changed, and tells which data there are now
            first = done[run]
            done |= _finished_before(planned[1:], first, target, state)
    return _compared({run: done[run] for run in planned if run in done}, failed, over, target, state)


def _finished_before(planned: list[Planned], first: dict, target: Target, state: Path) -> dict[Planned, dict]:
    """Which runs need not run again: their code, settings and data are today's, and MLflow still has them."""
    from mlflow import MlflowClient

    runs = summaries(state)
    known = {run: summary for run in planned if (summary := finished(runs, target.name, run.settings, first))}
    if not known:
        return {}

    with target.tracking(state) as uri:
        client = MlflowClient(uri)
        return {run: summary for run, summary in known.items() if still_there(client, summary)}


def _compared(done: dict[Planned, dict], failed: list[Unlike], over: str, target: Target, state: Path) -> int:
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
        report(comparison, failed + refused, over, outcomes[0], client, state)
    return 1 if failed or refused else 0
