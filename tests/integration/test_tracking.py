"""MLflow runs against a real server."""

import time
import uuid

import pytest

from components.core.step import StepError
from components.core.tracking import Run

pytestmark = pytest.mark.usefixtures("servers_here")


def epochs(count: int) -> list[dict]:
    names = ("train_loss", "train_dice", "val_loss", "val_dice", "learning_rate")
    return [{"epoch": e, "time": time.time(), **dict.fromkeys(names, e / 10)} for e in range(1, count + 1)]


@pytest.fixture
def kfp_run(monkeypatch) -> str:
    name = f"run-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("KFP_RUN_ID", name)
    return name


def test_every_step_of_a_pipeline_run_opens_the_same_run(kfp_run):
    assert Run.open("digest-a").id == Run.open("digest-a").id


def test_another_pipeline_run_has_another_run(kfp_run, monkeypatch):
    first = Run.open("digest-b")
    first.finish()
    monkeypatch.setenv("KFP_RUN_ID", kfp_run + "-again")
    assert Run.open("digest-b").id != first.id


def test_a_run_that_a_kill_left_unfinished_is_gone_on_with(kfp_run, monkeypatch):
    digest = uuid.uuid4().hex
    killed = Run.open(digest)
    monkeypatch.setenv("KFP_RUN_ID", kfp_run + "-again")
    assert Run.open(digest).id == killed.id


def test_a_given_run_is_resumed(kfp_run, monkeypatch):
    given = Run.open("digest-c").id
    monkeypatch.setenv("KFP_RUN_ID", "another")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    assert Run.open("digest-d").id == given


def test_a_given_run_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(StepError, match="MLFLOW_RUN_ID"):
        Run.open("digest-e")


def test_epochs_are_logged_once_and_in_order_whatever_was_logged_before(kfp_run):
    run = Run.open("digest-f")
    run.epochs(epochs(2))
    run.epochs(epochs(5))
    run.epochs(epochs(5))
    for name in ("train_loss", "val_dice"):
        logged = run.client.get_metric_history(run.id, name)
        assert [m.step for m in logged] == [1, 2, 3, 4, 5]
        assert [m.value for m in logged] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_parameter_keeps_its_first_value_and_the_log_says_so(kfp_run, caplog):
    run = Run.open("digest-g")
    run.params({"epochs": 5})
    run.params({"epochs": 6, "batch_size": 2})
    assert run.client.get_run(run.id).data.params == {"epochs": "5", "batch_size": "2"}
    assert "MLflow keeps epochs=5" in caplog.text


def test_lineage_variables_become_tags(kfp_run, monkeypatch):
    monkeypatch.setenv("GIT_COMMIT", "abc")
    monkeypatch.setenv("IMAGE_TAG", "image:1")
    run = Run.open("digest-h")
    tags = run.client.get_run(run.id).data.tags
    assert (tags["git_commit"], tags["image_tag"], tags["kfp_run_id"]) == ("abc", "image:1", kfp_run)
