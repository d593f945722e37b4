"""A training and its evaluation, as the steps run them, with a real S3 and a real MLflow."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest

from components.artifacts.evaluation import TestMetrics
from components.core.settings import checked
from components.evaluate.evaluate import evaluate
from components.ingest.discover import discover
from components.ingest.ingest import check
from components.model.inference import load_model
from components.preprocess.preprocess import preprocess
from components.split.split import split
from components.train.train import train
from components.train.training_inputs import TrainingPaths
from tests.support.viewer import viewed, volume, without_viewer

SETTINGS = {
    "base_channels": 4, "epochs": 8, "batch_size": 4, "learning_rate": 1e-2, "weight_decay": 1e-5, "loss": "dice+bce",
    "early_stop_patience": 20, "lesion_free_ratio": 1.0, "random_seed": 3, "precision": "float32",
    "memory_format": "contiguous", "cca": True,
}  # fmt: skip
PATIENTS, LESION_FREE = 12, 9
"""How many, and from which one on they have none."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, make_scan, write_case, keys_of) -> list[Path]:
    """Cases of two sites, slices, split and report, made by the steps before."""
    folder = tmp_path_factory.mktemp("inputs")
    scans, cases, slices, parts, page = (folder / n for n in ("scans", "cases", "slices", "split.json", "report.html"))
    for number in range(PATIENTS):
        dwi, _, mask = make_scan(number)
        if number >= LESION_FREE:
            dwi[mask > 0], mask[:] = 105, 0
        write_case(scans, f"sub-{number:02d}", dwi=dwi, mask=mask)
    validated = check(discover(keys_of(scans)), scans, cases, data_uri="s3://scans", data_version="1")
    sited = [case.model_copy(update={"site": "AB"[number % 2]}) for number, case in enumerate(validated.cases)]
    validated.model_copy(update={"cases": sited}).write(cases)
    preprocess(cases, slices, 32, "volume")
    split(cases, parts, folder / "split.html", (0.4, 0.3, 0.3), 0)
    page.write_text("<html></html>")
    return [cases, slices, parts, page]


@pytest.fixture
def evaluated(inputs, tmp_path, servers_here, monkeypatch):
    """The folder of the model, that of the evaluation, its page, and the MLflow run of both."""
    monkeypatch.setenv("KFP_RUN_ID", "evaluation")
    cases, slices, parts, page = inputs
    model, evaluation, out = (tmp_path / name for name in ("model", "evaluation", "evaluation.html"))
    train(TrainingPaths(cases, slices, parts, page, model, tmp_path / "curves.html"), checked(SETTINGS))
    evaluate(cases, parts, page, model, evaluation, out)
    mine = "tags.kfp_run_id = 'evaluation'"
    [run] = mlflow.search_runs(filter_string=mine, search_all_experiments=True, output_format="list")
    return model, evaluation, out, run


@pytest.mark.slow
def test_the_models_statements_are_measured_and_shown(evaluated):
    model, evaluation, page, run = evaluated
    trained, measured = load_model(model)[1], json.loads((evaluation / "test_metrics.json").read_text())
    patients = measured["summary"]["test_patients"]

    assert trained.temperature > 0 and set(trained.seen) >= {"slices", "slice_mm", "noise"}
    assert measured["calibration"]["temperature"] == trained.temperature
    assert measured["volume"]["interval_level"] == trained.volume_interval.level < 0.9  # too few patients

    with_lesion = sum(row["patients"] for row in measured["strata"]["lesion volume"].values())
    assert with_lesion + measured["lesion_free"]["patients"] == patients
    assert sum(row["patients"] for row in measured["strata"]["site"].values()) == with_lesion
    assert measured["strata"]["scanner"] == {}
    assert measured["review"]["scans"] == len(measured["cases"])
    for case in measured["cases"]:
        assert case["site"] in "AB" and case["scanner"] is None
        assert case["predicted_ml_low"] <= case["predicted_ml"] <= case["predicted_ml_high"]
        assert "reliability" not in case

    for name in ("test_ece_before", "test_ece_after", "test_volume_bias_ml", "test_review_flagged"):
        assert run.data.metrics[name] == measured["summary"][name]
    logged = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/evaluation.html")
    assert logged == page.read_text()
    assert len(without_viewer(logged).encode()) < 1_000_000


@pytest.mark.slow
def test_the_viewer_shows_the_lowest_dice_first_with_truth_prediction_and_probability(evaluated):
    _, evaluation, page, _ = evaluated
    measured = TestMetrics.read(evaluation)
    dices = {scan.case: scan.dice for scan in measured.cases}
    found = viewed(page.read_text())
    assert sorted(dices) == sorted(found) and [dices[name] for name in found] == sorted(dices.values())
    for scan in measured.cases:
        layers = {layer["name"]: volume(layer) for layer in found[scan.case]["layers"]}
        truth, predicted, levels = (np.asarray(layers[name].dataobj) for name in ("truth", "prediction", "probability"))
        assert (truth.sum(), predicted.sum()) == (scan.truth_voxels, scan.predicted_voxels)
        assert not predicted.any() or levels[predicted > 0].mean() > levels.mean()
