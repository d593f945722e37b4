"""What a run of the pipeline came to: summaries say which runs there are and what they took, MLflow what they found."""

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from components.core.settings import Settings
from components.core.step import StepError
from components.registry.run_records import TRAINING_COST
from pipelines.atomic_write import read_json
from pipelines.image_tags import code
from pipelines.pipeline import settings_of

SAME_DATA = ("data_uri", "data_version")


@dataclass(frozen=True)
class Outcome:
    """One run: `preset` as the experiment names it, `patients` by subset, `cases` as in test_metrics.json."""

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
    """Of all runs that were started from here, the newest first; a broken one is named and passed over."""
    found = []
    for path in sorted((state / "runs").glob("*/summary.json"), reverse=True):
        try:
            found.append(read_json(path))
        except StepError as error:
            logging.warning("%s", error)
    return found


def finished(runs: list[dict], target: str, settings: Settings, like: dict | None = None) -> dict | None:
    """The newest of `runs` that succeeded there with these settings and today's code; on the data of `like`, if given.

    None where there is none.
    """
    wanted = {"status": "succeeded", "target": target, "settings": settings.model_dump(), "code": code()}
    wanted |= {name: like[name] for name in SAME_DATA} if like else {}
    return next((run for run in runs if all(run.get(name) == value for name, value in wanted.items())), None)


def still_there(client, summary: dict) -> bool:
    """Whether MLflow has the run of this summary.

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


def outcome(client, preset: str, seed: int, summary: dict, runs: list[dict]) -> Outcome:
    """Read it from MLflow; `runs` are all summaries.

    Raises:
        StepError: MLflow does not have it.
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
        said = " ".join(str(error).split())[:200]
        raise StepError(
            f"MLflow at {client.tracking_uri} does not have what it came to (run {run_id}): {said}. "
            f"To run it again, remove .local/runs/{summary['run_id']}."
        ) from error
    training, taken_over = (run.data.metrics.get(name) for name in TRAINING_COST)
    seconds = step_seconds(summary, runs)
    return Outcome(
        preset, seed, run_id, run.data.tags.get("data_version", ""), split["digest"], split["patients"],
        measured["cases"], measured["synthetic"], run.data.params.get("precision", "unknown"),
        training, None if seconds is None else seconds + (taken_over or 0),
    )  # fmt: skip


def step_seconds(summary: dict, runs: list[dict]) -> float | None:
    """What its steps took, one from cache what it took when it ran; None where a run before it is not known here."""
    total = 0.0
    for step in summary["steps"]:
        ran = next((run for run in [summary, *runs] if _gave(run, step, summary)), None)
        if ran is None:
            return None
        total += ran["steps"][step]["seconds"]
    return total


def _gave(run: dict, step: str, summary: dict) -> bool:
    """Whether `run` ran the step itself, and `summary` may have its outputs."""
    same = ("target", "data_uri", "data_version")
    return (
        run["run_id"] <= summary["run_id"]
        and (facts := run.get("steps", {}).get(step)) is not None
        and facts["state"] == "succeeded"
        and not facts["cached"]
        and [run.get(name) for name in same] == [summary.get(name) for name in same]
        and all(run["settings"].get(name) == summary["settings"].get(name) for name in settings_of(step))
    )
