"""What a run cost: a step that came from cache costs what it cost when it ran."""

import pytest

from components.core.errors import StepError
from pipelines.experiments.run_results import finished_run, read_result, step_seconds
from pipelines.image_tags import code
from pipelines.presets import load


def summary(number: int, preset: str = "demo", cached: str = "", seconds: float = 1.0, **more) -> dict:
    """Of a run; the steps in `cached` came from cache, the others took `seconds` each."""
    steps = {
        name: {"state": "succeeded", "seconds": 0.0 if name in cached else seconds, "cached": name in cached}
        for name in ("fingerprint", "ingest", "preprocess", "split", "train", "evaluate")
    }
    settings = load(preset, more.pop("set", "")).model_dump()
    facts = {"run_id": f"{number:03d}", "target": "local", "data_uri": "s3://b/scans", "steps": steps}
    return {**facts, "settings": settings, **more}


def test_a_run_of_its_own_costs_its_steps():
    assert step_seconds(summary(1, seconds=2.0), []) == 12.0


def test_steps_from_cache_cost_what_they_cost_in_the_run_that_made_them():
    first, second = summary(1, seconds=10.0), summary(2, "demo+n4", "ingest split")
    assert step_seconds(second, [second, first]) == 4 * 1.0 + 2 * 10.0


def test_of_several_runs_of_a_step_the_newest_before_counts():
    old, new, later = summary(1, seconds=10.0), summary(2, seconds=20.0), summary(4, seconds=50.0)
    this = summary(3, cached="ingest")
    assert step_seconds(this, [later, this, new, old]) == 5 * 1.0 + 20.0


@pytest.mark.parametrize(
    "other",
    [{"preset": "demo+n4"}, {"target": "containers"}, {"data_uri": "s3://b/others"}, {"set": "image_size=64"}],
    ids=str,
)
def test_a_step_of_another_making_is_not_taken_for_it(other):
    before, this = summary(1, **other), summary(2, cached="preprocess")
    assert step_seconds(this, [this, before]) is None


def test_another_seed_is_another_training_and_the_same_preprocessing():
    before = summary(1, seconds=10.0)
    assert step_seconds(summary(2, cached="preprocess", set="random_seed=7"), [before]) == 15.0
    assert step_seconds(summary(2, cached="train", set="random_seed=7"), [before]) is None


def test_a_killed_runs_finished_steps_count_and_its_unfinished_do_not():
    killed = summary(1, seconds=10.0)
    killed["steps"]["preprocess"]["state"] = "stopped"
    assert step_seconds(summary(2, cached="ingest"), [killed]) == 15.0
    assert step_seconds(summary(2, cached="preprocess"), [killed]) is None


def test_a_run_that_mlflow_lost_is_named_with_what_to_do(pipeline):
    with pytest.raises(StepError, match=r"does not have the results of run gone.* remove .local/runs/001"):
        read_result(pipeline.client, "n4", 42, summary(1, mlflow_run_id="gone"), [])


def test_a_run_with_other_folds_has_other_steps_from_the_split_on():
    folds = summary(1, seconds=10.0, folds=5)
    assert step_seconds(summary(2, cached="preprocess"), [folds]) == 15.0
    assert step_seconds(summary(2, cached="evaluate"), [folds]) is None
    assert step_seconds(summary(2, cached="evaluate", folds=5), [folds]) == 15.0


@pytest.mark.parametrize(("asked", "name"), [("", "001"), ("1", "001"), ("5", "002"), ("3", None)])
def test_a_finished_run_is_one_with_the_folds_that_are_asked_for(monkeypatch, asked, name):
    monkeypatch.setenv("FOLDS", asked)
    finished = {"status": "succeeded", "code": code()}
    found = finished_run([summary(1, **finished), summary(2, folds=5, **finished)], "local", load("demo"))
    assert (found and found["run_id"]) == name
