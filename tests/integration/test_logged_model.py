"""The model that the register step logs to the run."""

import json

import pytest
import torch

from components.model.network import AttentionUNet
from components.register.mlflow_logging import logged_model
from components.registry.tracking import Run

pytestmark = pytest.mark.usefixtures("servers_here")


@pytest.fixture
def model(tmp_path):
    """The folder of a tiny model, as the train step leaves it."""
    facts = {
        "base_channels": 4, "image_size": 32, "normalization": "slice", "precision": "float32", "threshold": 0.5,
        "inputs": "dwi", "params": {"epochs": 2},
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
