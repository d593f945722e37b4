"""`make experiments` on a cluster: the same loop, each run through KFP, the results from the cluster's MLflow."""

import json

import mlflow
import pytest

from tests.support.kubeflow_stand_in import RUN_ID


@pytest.fixture
def experiments(cluster, tracking):
    """On the stand-ins every run comes to the one MLflow run that is there."""
    client = mlflow.MlflowClient(tracking)
    (run,) = client.search_runs(["1"], f"tags.kfp_run_id = '{RUN_ID}'")
    case = {"case": "p1", "patient": "p1", "dice": 0.5, "lesion_f1": 0.5, "absolute_volume_difference_ml": 1.0}
    patients = {"train": ["t1"], "val": ["v1"], "test": ["p1"]}
    client.log_dict(run.info.run_id, {"cases": [case], "synthetic": True}, "test_metrics.json")
    client.log_dict(run.info.run_id, {"digest": "s1", "patients": patients}, "split.json")
    what = ("--target", "kind", "--data", "s3://dwi-stroke/scans", "--presets", "n4 cca")
    return lambda: cluster("experiments", *what, "--seeds", "1")


@pytest.mark.slow
def test_each_run_goes_through_the_cluster_and_the_comparison_into_its_mlflow(
    experiments, kubeflow, tracking, tmp_path, capsys
):
    assert experiments() == 0
    given = [run.runtime_config["parameters"] for run in kubeflow.runs]
    assert [(p["n4_bias_correction"], p["cca"], p["random_seed"]) for p in given] == [
        (False, False, 42), (True, False, 42), (False, True, 42),
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "3 of 3: cca, seed 42" in out and "+0.000 (no interval)         too few patients to tell (1 of 10)" in out
    (folder,) = (tmp_path / ".local" / "experiments").iterdir()
    assert json.loads((folder / "comparison.json").read_text())["presets"]["n4"]["run_seconds"] == 7 * 12
    names = [run.info.run_name for run in mlflow.MlflowClient(tracking).search_runs(["1"])]
    assert any(name.startswith("experiments ") for name in names)


@pytest.mark.slow
def test_a_second_start_sends_only_the_first_run(experiments, kubeflow):
    experiments()
    assert experiments() == 0
    assert len(kubeflow.runs) == 3 + 1


@pytest.mark.slow
def test_ctrl_c_ends_the_experiments_as_it_ends_a_run(experiments, kubeflow, monkeypatch):
    def pressed(_self):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.cluster.watch.Watch.until_over", pressed)
    assert experiments() == 130
    assert len(kubeflow.runs) == 1
