"""What the pipeline records in an MLflow run: data, training, evaluation, comparison with the champion."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from components.artifacts import synthetic
from components.artifacts.artifact import read_json
from components.artifacts.cases import REPORT, Cases
from components.artifacts.evaluation import FOLDS, OVERLAYS, Comparison, ParentComparison, ScanDigests, TestMetrics
from components.artifacts.split_file import Split
from components.artifacts.trained_model import CURVE, WEIGHTS, TrainedModel, read_history
from components.core.storage import file_sha256
from components.registry.datasets import dataset_inputs
from components.registry.mlflow_requests import explain_mlflow_errors
from components.registry.tracking import Run

TRAINING_COST = ("training_seconds", "training_seconds_taken_over")
"""Metrics: seconds of all epochs, and the seconds among them that an earlier run had trained."""
MASK_FIELDS = ("case", "truth_voxels", "predicted_voxels", "dice", "lesions_found", "false_lesions")
"""Fields of a test scan that differ if its predicted mask differs."""
ANY_OBJECT = TypeAdapter(dict[str, Any])


def data_tags(cases: Cases, split: Split) -> dict[str, str]:
    """Return tags of the data: version, digests of the split, and whether the scans are synthetic."""
    tags = {
        "data_version": cases.data_version, "split_digest": split.digest, "split_lineage": split.history_digest,
    }  # fmt: skip
    return tags | (synthetic.TAG if cases.synthetic else {})


def data_params(cases: Cases, split: Split) -> dict[str, Any]:
    """Return parameters of the data: address, ratios, patients and scans per subset."""
    params: dict[str, Any] = {
        "data_uri": cases.data_uri, "b_value": cases.b_value, "modality_check": cases.modality_check,
    }  # fmt: skip
    for subset in split.patients:
        params[f"{subset}_ratio"] = split.ratios_asked[subset]
        params[f"{subset}_patients"] = len(split.patients[subset])
        params[f"{subset}_scans"] = len(split.cases[subset])
    return params | {"carry_split": split.carry_split}


@explain_mlflow_errors()
def record_inputs(run: Run, cases: Cases, split: Split, split_file: Path, data_report: Path) -> None:
    """Log the data of a training: version, split, datasets, patient and scan counts, the data report."""
    if run.finished_at:
        return
    run.log_params(data_params(cases, split))
    run.set_tags(data_tags(cases, split))
    run.log_datasets(dataset_inputs(cases, split))
    run.log_artifact_as(split_file, Split.FILE)
    run.log_artifact_as(data_report, REPORT)


@explain_mlflow_errors()
def record_training(run: Run, model: Path) -> None:
    """Log a finished training from its artifact, once: parameters, epochs, curve, weights."""
    if run.has_tag("training_recorded"):
        return
    trained = TrainedModel.read(model)
    run.log_params(trained.params)
    run.log_metrics({name: seconds for name in TRAINING_COST if (seconds := getattr(trained, name)) is not None})
    run.log_artifact(model / TrainedModel.FILE)
    if not trained.networks:  # else the run of each network has its own
        run.log_epochs(read_history(model))
        for name in (CURVE, WEIGHTS):
            run.log_artifact(model / name)
    run.set_tags({"training_recorded": "true"})


@explain_mlflow_errors()
def record_page(run: Run, page: Path) -> None:
    """Log the page of the evaluation."""
    if not run.finished_at:
        run.log_artifact_as(page, "evaluation.html")


@explain_mlflow_errors()
def record_evaluation(run: Run, model: Path, evaluation: Path) -> None:
    """Log an evaluation from its artifact, once: metrics, overlays, digests of the scans."""
    digest = evaluation_digest(model, evaluation)
    if run.has_tag("evaluation_digest", digest):
        return
    measured = TestMetrics.read(evaluation)
    run.log_metrics({**measured.summary, "threshold": measured.threshold})
    for name in (TestMetrics.FILE, ScanDigests.FILE, Split.FILE):
        run.log_artifact(evaluation / name)
    for folder in (OVERLAYS, FOLDS):
        for path in sorted((evaluation / folder).glob("*")):
            run.log_artifact(path, folder)
    run.set_tags({"evaluation_digest": digest})


@explain_mlflow_errors()
def record_comparison(run: Run, evaluation: Path) -> None:
    """Log the comparison with the champion. An unfinished run keeps the newest one."""
    if not run.finished_at:
        run.log_artifact(evaluation / Comparison.FILE)
        if (evaluation / ParentComparison.FILE).exists():
            run.log_artifact(evaluation / ParentComparison.FILE)


def evaluation_digest(model: Path, evaluation: Path) -> str:
    """Return the SHA-256 over the weights, the facts that decide masks, and the results of the masks.

    Probabilities are left out: their last digit differs between processors, and the model is the same. The files are
    read without their types, so that the digest of a version from older code stays the same.
    """
    trained = read_json(model / TrainedModel.FILE, ANY_OBJECT, TrainedModel.WRITTEN_BY)
    measured = read_json(evaluation / TestMetrics.FILE, ANY_OBJECT, TestMetrics.WRITTEN_BY)
    content = [
        file_sha256(model / WEIGHTS),
        trained.get("threshold"),
        trained.get("training_digest"),
        [[scan.get(name) for name in MASK_FIELDS] for scan in measured.get("cases", [])],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
