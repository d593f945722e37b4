"""What a run comes to, as a person reads it and as programs do: the same wherever the pipeline ran."""

from pathlib import Path

from components.artifacts.headline import in_words, not_better
from components.registry.tracking import TRAINING_VIEW
from pipelines.atomic_write import write_json

SHOWN = (
    ("test_lesion_dice", "Dice with a lesion", "{:.3f}"),
    ("test_dice", "Dice, all patients", "{:.3f}"),
    ("test_absolute_volume_difference_ml", "volume difference", "{:.2f} mL"),
    ("test_lesion_f1", "lesion F1, touched", "{:.3f}"),
    ("test_lesion_f1_matched", "lesion F1, matched", "{:.3f}"),
)
LOOKING = {"fingerprint", "register"}
"""Steps that run anew only to see whether something changed; on a cluster evaluate too (is the champion another?)."""


def save(summary: dict, state: Path) -> None:
    """To the run's own folder, and as the last run."""
    folder = state / "runs" / summary["run_id"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", summary)
    write_json(state / "last-run.json", summary)


def links(uri: str, experiment_id: str, mlflow_run_id: str, name: str, version: str) -> dict[str, str]:
    """The run and the model version in MLflow's pages."""
    uri = uri.rstrip("/")
    return {
        "run": f"{uri}/#/experiments/{experiment_id}/runs/{mlflow_run_id}{TRAINING_VIEW}",
        "model": f"{uri}/#/models/{name}/versions/{version}{TRAINING_VIEW}",
    }


def show(summary: dict, state: Path) -> None:
    """Print the summary of a run that succeeded, and where below `state` programs find it."""
    metrics, model = summary["metrics"], summary["model"]
    cached = [name for name, step in summary["steps"].items() if step["cached"]]
    print(f"\n{worse}" if (worse := not_better(metrics)) else "")
    looking = LOOKING | {"evaluate"} if "kfp_run_id" in summary else LOOKING
    if not summary["new_version"] and summary["steps"].keys() - cached <= looking:
        print(f"Nothing changed: every step came from cache, {model['name']} stays at version {model['version']}.")
    elif cached:
        print(f"From cache: {', '.join(cached)}.")
    print(f"{model['name']} version {model['version']} ({model['aliases'].replace(',', ', ')})")
    print(f"  {summary['decision']}")
    count = metrics["test_patients"]
    print(f"  on {count:g} held-out patient{'s' if count > 1 else ''}, whole scans, native space:")
    for name, label, form in SHOWN:
        if f"{name}_mean" in metrics:
            print(f"  {label:<18} {in_words(metrics, name, form)}")
    if "test_lesion_free_false_alarm_rate" in metrics:
        free, alarms = metrics["test_patients_lesion_free"], metrics["test_lesion_free_false_alarm_rate"]
        print(f"  {'false alarms':<18} in {alarms * free:.0f} of {free:g} without a lesion")
    if "test_rule_dice_mean" in metrics:
        print(f"  {'rule, no network':<18} Dice {in_words(metrics, 'test_rule_dice')}")
    if count < 10:
        print("  So few patients are too few to conclude anything from.")
    if summary["synthetic"]:
        print("  The scans are synthetic: these numbers say nothing about patients.")
    print("  One training, one draw: digits repeat only on one machine in one precision; another seed gives others.")
    print(f"  {summary['wall_seconds']:.0f} s in all; summary in {state / 'last-run.json'}")
    for name, link in summary["links"].items():
        print(f"  {name:<6} {link}")
