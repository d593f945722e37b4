"""The model that the register step logs to the run."""

import json

import pytest
import torch

from components.model.network import AttentionUNet
from components.register.mlflow_logging import logged_model
from components.registry.datasets import dataset_inputs
from components.registry.tracking import EPOCH_METRICS, Run
from tests.support.artifacts import make_cases, make_split

pytestmark = pytest.mark.usefixtures("servers_here")


@pytest.fixture
def model(tmp_path):
    """The folder of a tiny model, as the train step leaves it."""
    facts = {
        "base_channels": 4, "image_size": 32, "normalization": "slice", "precision": "float32", "threshold": 0.5,
        "inputs": "dwi", "params": {"epochs": 2}, "best_epoch": 1,
    }  # fmt: skip
    torch.save(AttentionUNet(4).state_dict(), tmp_path / "best_model.pth")
    (tmp_path / "model.json").write_text(json.dumps(facts))
    return tmp_path


def test_a_retry_takes_the_model_that_was_logged_and_deletes_what_a_killed_try_left(model, monkeypatch):
    monkeypatch.setenv("KFP_RUN_ID", "run-of-a-logged-model")
    run = Run.open("digest of a logged model")
    number = run.client.get_run(run.id).info.experiment_id
    run.client.create_logged_model(number, name="model", source_run_id=run.id, tags={"evaluation_digest": "e"})

    first = logged_model(run, model, "e")
    assert logged_model(run, model, "e") == first

    [kept] = run.client.search_logged_models([number], f"source_run_id = '{run.id}'")
    assert (kept.model_id, kept.model_uri) == first
    assert (kept.status, kept.params) == ("READY", {"epochs": "2"})
    assert {used.model_id for used in run.client.get_run(run.id).outputs.model_outputs} == {kept.model_id}

    facts = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(facts | {"threshold": 0.6}))
    assert logged_model(run, model, "e") != first, "the registry's digest of model.json would be of another file"


def test_a_logged_model_has_the_metrics_of_its_epoch_and_those_of_the_test_on_its_dataset(model, monkeypatch):
    monkeypatch.setenv("KFP_RUN_ID", "run-of-a-measured-model")
    run = Run.open("digest of a measured model")
    run.log_datasets(dataset_inputs(make_cases([]), make_split({"train": ["a"], "val": ["b"], "test": ["c"]})))
    row = dict.fromkeys(EPOCH_METRICS, 0.5)
    run.log_epochs([{"epoch": epoch, "time": 1.0} | row | {"val_dice": epoch / 10} for epoch in (1, 2)])
    run.log_metrics({"test_dice_mean": 0.6, "step_seconds_train": 9.0})
    model_id, _ = logged_model(run, model, "e")
    run.link_model(model_id)
    found = {metric.key: metric for metric in run.client.get_logged_model(model_id).metrics}
    assert found.keys() == {*EPOCH_METRICS, "test_dice_mean"}
    assert (found["val_dice"].value, found["val_dice"].step) == (0.1, 1)
    assert (found["test_dice_mean"].value, found["test_dice_mean"].dataset_name) == (0.6, "scans")
