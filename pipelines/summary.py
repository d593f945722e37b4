"""Store the summary of a run for programs, and print it for people: the same on every target."""

from pathlib import Path

from components.artifacts.headline import in_words, not_better, out_of_fold
from components.artifacts.metric_labels import METRIC_LABELS
from components.core.intervals import FEWEST
from components.registry.mlflow_page import view_address
from components.registry.tracking import TRAINING_VIEW
from pipelines.atomic_write import write_json
from pipelines.power_report import power_report

PRINTED = ("lesion_dice", "dice", "absolute_volume_difference_ml", "lesion_f1", "lesion_f1_matched")
CHECKING_STEPS = {"fingerprint", "register"}
"""Steps that always run, to check for changes. On a cluster evaluate is one too: the champion may have changed."""


def save(summary: dict, state: Path) -> None:
    """Write the summary to the run's own folder, and as the last run."""
    folder = state / "runs" / summary["run_id"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", summary)
    write_json(state / "last-run.json", summary)


def links(uri: str, experiment_id: str, mlflow_run_id: str, name: str, version: str) -> dict[str, str]:
    """Return the addresses of the runs, this run and the model version in MLflow."""
    uri = uri.rstrip("/")
    return {
        "runs": view_address(uri, experiment_id),
        "run": f"{uri}/#/experiments/{experiment_id}/runs/{mlflow_run_id}{TRAINING_VIEW}",
        "model": f"{uri}/#/models/{name}/versions/{version}{TRAINING_VIEW}",
    }


def _power(summary: dict) -> list[str]:
    """Return lines about what the patients of this run can show."""
    tested = int(summary["metrics"]["test_patients"])
    spread = summary["metrics"].get("test_dice_std") if tested >= FEWEST else None
    ratio = None if "test_folds" in summary["metrics"] else summary.get("settings", {}).get("test_ratio")
    return power_report(tested, summary.get("patients", tested), summary["synthetic"], ratio, spread)


def show(summary: dict, state: Path) -> None:
    """Print the summary of a run that succeeded, and the path of its file below `state`."""
    metrics, model = summary["metrics"], summary["model"]
    cached = [name for name, step in summary["steps"].items() if step["cached"]]
    print(f"\n{worse}" if (worse := not_better(metrics)) else "")
    checking = CHECKING_STEPS | {"evaluate"} if "kfp_run_id" in summary else CHECKING_STEPS
    if not summary["new_version"] and summary["steps"].keys() - cached <= checking:
        print(f"Nothing changed: every step came from cache, {model['name']} stays at version {model['version']}.")
    elif cached:
        print(f"From cache: {', '.join(cached)}.")
    print(f"{model['name']} version {model['version']} ({model['aliases'].replace(',', ', ')})")
    print(f"  {summary['decision']}")
    count = metrics["test_patients"]
    print(f"  on {count:g} held-out patient{'s' if count > 1 else ''}, whole scans, native space:")
    for name in PRINTED:
        if f"test_{name}_mean" in metrics:
            label = METRIC_LABELS[name]
            form = f"{{:.2f}} {label.unit}" if label.unit else "{:.3f}"
            print(f"  {label.short:<18} {in_words(metrics, f'test_{name}', form)}")
    if "test_lesion_free_false_alarm_rate" in metrics:
        free, alarms = metrics["test_patients_lesion_free"], metrics["test_lesion_free_false_alarm_rate"]
        print(f"  {'false alarms':<18} in {alarms * free:.0f} of {free:g} without a lesion")
    if "test_rule_dice_mean" in metrics:
        print(f"  {'rule, no network':<18} Dice {in_words(metrics, 'test_rule_dice')}")
    if "test_folds" in metrics:
        print(f"  {out_of_fold(metrics['test_folds'])}")
    if count < 10:
        print("  These patients are too few for any conclusion.")
    for line in _power(summary):
        print(f"  {line}")
    if summary["synthetic"]:
        print("  The scans are synthetic: these numbers say nothing about patients.")
    print("  This is one training: the digits repeat only on one machine in one precision; another seed gives others.")
    print(f"  {summary['wall_seconds']:.0f} s in all; summary in {state / 'last-run.json'}")
    for name, link in summary["links"].items():
        print(f"  {name:<6} {link}")
