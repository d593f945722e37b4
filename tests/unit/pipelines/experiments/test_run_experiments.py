"""`make experiments` with a pipeline that is none and a real MLflow store: what runs, in which order, how it ends."""

import json

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from components.core.errors import StepError
from pipelines.experiments.run_experiments import experiments
from pipelines.experiments.run_results import is_in_mlflow

FOUR = [("demo", 42), ("demo+n4", 42), ("demo", 43), ("demo+n4", 43)]


@pytest.fixture
def run(pipeline, tmp_path):
    """run("n4", seeds="2"): the exit code of the experiments."""

    def start(names: str = "n4", seeds: str = "2", over: str = "demo", assignments: str = "") -> int:
        return experiments(names.split(), seeds, over, "", assignments, pipeline.target(), tmp_path)

    return start


@pytest.fixture
def left(tmp_path):
    """What the experiments left: the one folder."""

    def only():
        (folder,) = (tmp_path / "experiments").iterdir()
        return json.loads((folder / "comparison.json").read_text()), (folder / "page.html").read_text()

    return only


def logged(pipeline) -> list:
    return [
        r for r in pipeline.client.search_runs([pipeline.experiment]) if (r.info.run_name or "").startswith("experi")
    ]


def test_all_presets_run_with_the_first_seed_before_the_next_and_baseline_first(run, pipeline, capsys):
    assert run() == 0
    assert pipeline.calls == FOUR
    out = capsys.readouterr().out
    assert "\n1 of 4: baseline, seed 42\n" in out and "\n4 of 4: n4, seed 43\n" in out


def test_baseline_may_be_named_and_nothing_runs_twice(run, pipeline):
    run("n4 baseline demo n4", seeds="1")
    assert pipeline.calls == [("demo", 42), ("demo+n4", 42)]


def test_seeds_count_on_from_the_one_that_is_set(run, pipeline):
    run("", seeds="2", assignments="random_seed=7 epochs=1")
    assert pipeline.calls == [("demo", 7), ("demo", 8)]


def test_it_ends_with_a_table_a_page_the_numbers_and_a_run_in_mlflow(run, pipeline, left, capsys):
    pipeline.effect = {"demo+n4": 0.25}
    run()
    out = capsys.readouterr().out
    assert "n4                   0.800  0.800 to 0.800  +0.250 (no interval)" in out
    assert "too few patients to tell (2 of 10)" in out and "better" not in out.replace("is better", "")
    comparison, page = left()
    assert comparison["presets"]["n4"]["metrics"]["dice"]["difference"]["mean"] == pytest.approx(0.25)
    assert "Synthetic demo scans" in page
    (kept,) = logged(pipeline)
    assert {a.path for a in pipeline.client.list_artifacts(kept.info.run_id)} == {"page.html", "comparison.json"}
    assert kept.data.metrics["n4/dice_difference_mean"] == pytest.approx(0.25)
    assert kept.data.tags["data"].startswith("synthetic") and kept.info.status == "FINISHED"
    assert kept.info.run_id in out


@pytest.mark.slow
def test_a_second_start_goes_through_the_first_run_alone_and_compares_again(run, pipeline, capsys):
    run()
    pipeline.calls.clear()
    capsys.readouterr()
    assert run() == 0
    assert pipeline.calls == FOUR[:1]
    assert "4 of 4: n4, seed 43\n      finished before, in run 004-demo+n4" in capsys.readouterr().out


@pytest.mark.slow
def test_more_seeds_or_presets_add_to_what_is_there(run, pipeline):
    run("n4", seeds="1")
    pipeline.calls.clear()
    run("n4 loss", seeds="2")
    assert pipeline.calls == [("demo", 42), ("demo+loss", 42), ("demo", 43), ("demo+n4", 43), ("demo+loss", 43)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("where", [0, 1, 3])
def test_what_ctrl_c_stopped_is_run_again_and_what_was_finished_is_not(run, pipeline, where):
    pipeline.broken = {FOUR[where]: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run()
    assert pipeline.calls == FOUR[: where + 1]
    pipeline.broken, pipeline.calls = {}, []
    assert run() == 0
    assert pipeline.calls == [FOUR[0], *(call for call in FOUR[1:] if call in FOUR[where:])]


def test_a_run_left_on_the_cluster_ends_the_experiments_with_its_exit_code(run, pipeline):
    pipeline.exit_code = 130
    assert run() == 130
    assert len(pipeline.calls) == 1


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("change", ["data", "settings", "mlflow"])
def test_what_is_not_todays_runs_again(run, pipeline, change):
    run(seeds="1")
    pipeline.calls.clear()
    if change == "data":
        pipeline.data_version = "d2"
    if change == "mlflow":
        for found in pipeline.client.search_runs([pipeline.experiment]):
            pipeline.client.delete_run(found.info.run_id)
    run(seeds="1", assignments="epochs=3" if change == "settings" else "")
    assert pipeline.calls == FOUR[:2]


@pytest.mark.slow
def test_other_code_runs_again(run, pipeline, monkeypatch):
    run(seeds="1")
    pipeline.calls.clear()
    pipeline.code = lambda: "other"
    monkeypatch.setattr("pipelines.experiments.run_results.code", pipeline.code)
    assert run(seeds="1") == 0
    assert pipeline.calls == FOUR[:2]


def test_one_that_fails_is_named_with_its_reason_the_rest_goes_on_and_the_exit_code_says_so(
    run, pipeline, refused, capsys
):
    pipeline.broken = {("demo+adc", 42): refused, ("demo+adc", 43): StepError("S3 is gone")}
    assert run("adc n4") == 1
    assert len(pipeline.calls) == 6
    out, err = capsys.readouterr()
    assert "inputs=dwi+adc needs 3 labelled patients\nwith an ADC map" in err
    said = " ".join(out.split())
    assert "LEFT OUT adc, seed 42: failed: inputs=dwi+adc needs 3 labelled patients with an ADC map" in said
    assert "LEFT OUT adc, seed 43: failed: S3 is gone" in said
    assert "n4 0.550" in said


def test_without_baseline_there_is_nothing_to_compare_with(run, pipeline, refused):
    pipeline.broken = {FOUR[0]: refused}
    with pytest.raises(StepError, match="needs 3 labelled patients"):
        run()
    assert pipeline.calls == FOUR[:1]


@pytest.mark.slow
def test_a_seed_with_other_test_patients_is_left_out_and_named(run, pipeline, left, capsys):
    pipeline.test_patients = lambda seed: ["p1", "p2"] if seed == 42 else ["p2", "p3"]
    assert run() == 1
    said = " ".join(capsys.readouterr().out.split())
    why = "it has other test patients: it was trained or tuned on 1 of baseline's 2"
    assert f"LEFT OUT baseline, seed 43: {why}" in said and f"LEFT OUT n4, seed 43: {why}" in said
    comparison, page = left()
    assert comparison["presets"]["n4"]["seeds"] == [42]
    assert [run["seed"] for run in comparison["left_out"]] == [43, 43]
    assert "n4, seed 43: it has other test patients" in page


def test_the_cost_of_a_training_that_was_taken_over_is_counted(run, left):
    run(seeds="1")
    n4 = left()[0]["presets"]["n4"]
    assert (n4["training_seconds"], n4["run_seconds"]) == (15.0, 35.0)  # 30 of the steps, 5 trained before


@pytest.mark.slow
def test_where_mlflow_fails_at_the_end_the_page_is_kept_and_it_is_said_in_words(run, left, monkeypatch, capsys):
    def full(*_):
        raise MlflowException("no space left")

    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", full)
    with pytest.raises(StepError, match=r"did not accept the comparison: no space left\. Run the same command again"):
        run(seeds="1")
    assert "Experiments" in left()[1] and "page.html" in capsys.readouterr().out


def test_a_run_that_mlflow_has_no_more_is_told_from_an_mlflow_that_does_not_answer(pipeline, monkeypatch):
    assert not is_in_mlflow(pipeline.client, {"mlflow_run_id": "0" * 32})

    def down(*_):
        raise MlflowException("connection refused")

    monkeypatch.setattr(mlflow.MlflowClient, "get_run", down)
    with pytest.raises(StepError, match=r"connection refused. Is it up\?"):
        is_in_mlflow(pipeline.client, {"mlflow_run_id": "0" * 32})


@pytest.mark.parametrize("seeds", ["0", "-1", "two", "", "1.5", "101"])
def test_a_number_of_seeds_that_is_none_is_answered_with_an_example(run, pipeline, seeds):
    with pytest.raises(StepError, match=rf"^SEEDS={seeds} is impossible: .*Example: make experiments"):
        run(seeds=seeds)


def test_an_unknown_preset_is_answered_before_anything_runs(run, pipeline):
    with pytest.raises(StepError, match="unknown preset 'lss': did you mean 'loss'"):
        run("n4 lss")
    assert pipeline.calls == []
