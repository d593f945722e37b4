"""Read the results of runs: their times from the summaries of this machine, their measurements from MLflow."""

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from components.core.errors import StepError
from components.core.settings import Settings
from components.registry.run_records import TRAINING_COST
from pipelines.atomic_write import read_json
from pipelines.image_tags import code
from pipelines.pipeline import folds_asked, settings_that_decide

SAME_DATA = ("data_uri", "data_version")
BEFORE_SPLIT = ("ingest", "preprocess")
"""Steps that are the same with any number of folds."""


@dataclass(frozen=True)
class RunResult:
    """The result of one run.

    `preset` is its name in the experiment, `patients` are by subset, `cases` are those of test_metrics.json.
    """

    preset: str
    seed: int
    mlflow_run_id: str
    data_version: str
    split_digest: str
    patients: dict[str, list[str]]
    cases: list[dict]
    synthetic: bool
    precision: str
    training_seconds: float | None
    run_seconds: float | None

    def __str__(self) -> str:
        return f"{self.preset}, seed {self.seed}"


def summaries(state: Path) -> list[dict]:
    """Return the summaries of all runs that were started on this machine, the newest first.

    A summary that cannot be read is named in the log and left out.
    """
    found = []
    for path in sorted((state / "runs").glob("*/summary.json"), reverse=True):
        try:
            found.append(read_json(path))
        except StepError as error:
            logging.warning("%s", error)
    return found


def finished_run(runs: list[dict], target: str, settings: Settings, same_data_as: dict | None = None) -> dict | None:
    """Return the newest run that succeeded on `target` with these settings and the present code, or None.

    If `same_data_as` is given, the run must have had the same data as that one.
    """
    wanted = {"status": "succeeded", "target": target, "settings": settings.model_dump(), "code": code()}
    folds = folds_asked()
    wanted |= {name: same_data_as[name] for name in SAME_DATA} if same_data_as else {}
    same_folds = (run for run in runs if run.get("folds", 1) == folds)
    return next((run for run in same_folds if all(run.get(name) == value for name, value in wanted.items())), None)


def is_in_mlflow(client, summary: dict) -> bool:
    """Return whether MLflow has the run of this summary.

    Raises:
        StepError: MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(summary["mlflow_run_id"]).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise StepError(f"MLflow at {client.tracking_uri}: {' '.join(str(error).split())[:200]}. Is it up?") from error


def read_result(client, preset: str, seed: int, summary: dict, runs: list[dict]) -> RunResult:
    """Return the result of a run from MLflow; `runs` are all summaries.

    Raises:
        StepError: MLflow does not have the run or its files.
    """
    from mlflow.exceptions import MlflowException

    run_id = summary["mlflow_run_id"]
    try:
        run = client.get_run(run_id)
        with tempfile.TemporaryDirectory() as folder:
            split, measured = (
                json.loads(Path(client.download_artifacts(run_id, name, folder)).read_text())
                for name in ("split.json", "test_metrics.json")
            )
    except (MlflowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StepError(
            f"MLflow at {client.tracking_uri} does not have the results of run {run_id}: {reason}. "
            f"To run it again, remove .local/runs/{summary['run_id']}."
        ) from error
    training, taken_over = (run.data.metrics.get(name) for name in TRAINING_COST)
    seconds = step_seconds(summary, runs)
    return RunResult(
        preset, seed, run_id, run.data.tags.get("data_version", ""), split["digest"], split["patients"],
        measured["cases"], measured["synthetic"], run.data.params.get("precision", "unknown"),
        training, None if seconds is None else seconds + (taken_over or 0),
    )  # fmt: skip


def step_seconds(summary: dict, runs: list[dict]) -> float | None:
    """Return the time of all steps of a run, in seconds; a step from the cache counts with the time of its own run.

    None if the run that filled the cache was not started on this machine.
    """
    total = 0.0
    for step in summary["steps"]:
        ran = next((run for run in [summary, *runs] if _ran_step_for(run, step, summary)), None)
        if ran is None:
            return None
        total += ran["steps"][step]["seconds"]
    return total


def _ran_step_for(run: dict, step: str, summary: dict) -> bool:
    """Return whether `run` ran the step itself, and the run of `summary` can have taken the outputs from the cache."""
    same = ("target", "data_uri", "data_version")
    return (
        run["run_id"] <= summary["run_id"]
        and (facts := run.get("steps", {}).get(step)) is not None
        and facts["state"] == "succeeded"
        and not facts["cached"]
        and [run.get(name) for name in same] == [summary.get(name) for name in same]
        and (step in BEFORE_SPLIT or run.get("folds", 1) == summary.get("folds", 1))
        and all(run["settings"].get(name) == summary["settings"].get(name) for name in settings_that_decide(step))
    )
