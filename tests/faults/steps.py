"""The pipeline's steps, one after another in this process, on few tiny scans; what came out as digests."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import mlflow

from components.core.errors import StepError
from components.core.settings import checked
from components.core.storage import Storage, file_sha256, work_bucket
from components.evaluate.evaluate import evaluate
from components.fingerprint.fingerprint import fingerprint
from components.ingest.ingest import ingest
from components.preprocess.preprocess import preprocess
from components.register.register import register
from components.registry.tracking import EXPERIMENT, MODEL_NAME
from components.split.split import split
from components.train.train import train
from components.train.training_inputs import TrainingPaths
from pipelines.upload import upload

SETTINGS = {
    "base_channels": 4, "epochs": 3, "batch_size": 6, "learning_rate": 5e-3, "weight_decay": 1e-5, "loss": "dice+bce",
    "early_stop_patience": 20, "lesion_free_ratio": 1.0, "aug_hflip_prob": 0.5, "aug_rotate_prob": 0.5,
    "aug_brightness_prob": 0.5, "random_seed": 3, "precision": "float32", "memory_format": "contiguous",
}  # fmt: skip
NOT_OF_THE_DATA = ("time", "seconds")
TRIES = 3


def steps(scans: Path, out: Path) -> dict[str, Callable[[], object]]:
    """Step name to the call that runs it, with its files below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    cases, slices, parts, page, model, evaluation = (
        out / n for n in ("cases", "slices", "split.json", "report.html", "model", "evaluation")
    )
    known = {}

    def first() -> None:
        known["uri"] = upload(scans, out / "state")
        known["version"] = fingerprint(known["uri"])

    return {
        "upload and fingerprint": first,
        "ingest": lambda: ingest(known["uri"], known["version"], cases, page),
        "preprocess": lambda: preprocess(cases, slices, 32, "volume"),
        "split": lambda: split(cases, parts, out / "split.html", (0.5, 0.25, 0.25), 0),
        "train": lambda: train(
            TrainingPaths(cases, slices, parts, page, model, out / "curves.html"), checked(SETTINGS)
        ),
        "evaluate": lambda: evaluate(cases, parts, page, model, evaluation, out / "evaluation.html"),
        "register": lambda: register(model, evaluation),
    }


def run(scans: Path, out: Path, failed: Callable[[str, StepError], None] = lambda *_: None) -> None:
    """All steps; one that fails as it should is tried again, as a cluster does, and told to `failed`."""
    for name, step in steps(scans, out).items():
        for left in reversed(range(TRIES)):
            try:
                step()
                break
            except StepError as error:
                failed(name, error)
                if not left:
                    raise


def digests(out: Path) -> dict[str, str]:
    """What came out of a run, without what is of the moment."""
    found = {
        path.relative_to(out).as_posix(): file_sha256(path)
        for folder in ("cases", "slices", "evaluation/masks")
        for path in sorted((out / folder).rglob("*"))
        if path.is_file()
    }
    history = [
        {k: v for k, v in row.items() if k not in NOT_OF_THE_DATA}
        for row in json.loads((out / "model/history.json").read_text())
    ]
    return found | {
        "split": json.loads((out / "split.json").read_text())["digest"],
        "weights": file_sha256(out / "model/best_model.pth"),
        "history": hashlib.sha256(json.dumps(history).encode()).hexdigest(),
        "test_metrics": file_sha256(out / "evaluation/test_metrics.json"),
    }


def forget() -> None:
    """Bucket and registry as they were before there was a run."""
    storage = Storage(f"s3://{work_bucket()}")
    storage.delete([o.key for o in storage.list() if not o.key.startswith("mlflow/")])
    client = mlflow.MlflowClient()
    if client.search_registered_models(f"name = '{MODEL_NAME}'"):
        client.delete_registered_model(MODEL_NAME)
    if experiment := mlflow.get_experiment_by_name(EXPERIMENT):
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_run(run.info.run_id)


def runs_of(kfp_run: str) -> list:
    experiment = mlflow.get_experiment_by_name(EXPERIMENT).experiment_id
    return mlflow.MlflowClient().search_runs([experiment], f"tags.kfp_run_id = '{kfp_run}'")


def versions() -> list:
    return mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}'")
