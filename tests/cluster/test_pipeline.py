"""The whole pipeline, twice, the second time from cache: registry, MLflow, KFP, logs, and the security of pods."""

import json

import pytest

from pipelines.pipeline import STEPS
from tests.cluster.conftest import NAMESPACE, found, kubectl, make
from tests.unit.manifests.test_pods import violations

pytestmark = pytest.mark.cluster

NEVER_CACHED = {"fingerprint", "evaluate", "register"}  # the bucket, champion and registry may have changed


@pytest.fixture(scope="module")
def scans(new_scans):
    return new_scans()


@pytest.fixture(scope="module")
def first(start, scans):
    return start("epochs=1", scans=scans).succeeded()


def test_a_run_ends_with_a_registered_model_and_its_metrics(first):
    assert first["status"] == "succeeded"
    assert first["steps"].keys() == set(STEPS)
    assert {step["state"] for step in first["steps"].values()} == {"succeeded"}
    assert first["model"]["name"] == "dwi-attention-unet" and "challenger" in first["model"]["aliases"]
    assert first["metrics"]["test_patients"] > 0


def test_the_run_has_the_same_name_in_mlflow_the_terminal_and_kfp(first, mlflow_runs, kfp_run):
    (run,) = mlflow_runs(first["kfp_run_id"])
    assert run.info.run_name == first["run_id"] == kfp_run(first["kfp_run_id"]).display_name
    assert run.data.tags["kfp_page"].endswith(f"/#/runs/details/{first['kfp_run_id']}")


def test_no_plugin_of_kfp_fails(first, kfp_run):
    assert not kfp_run(first["kfp_run_id"]).plugins_output


def test_an_unchanged_run_comes_from_cache_and_changes_no_finished_run(first, start, scans, mlflow_runs, kfp_run):
    (before,) = mlflow_runs(first["kfp_run_id"])
    second = start("epochs=1", scans=scans).succeeded()
    assert {name for name, step in second["steps"].items() if not step["cached"]} <= NEVER_CACHED
    assert second["model"]["version"] == first["model"]["version"] and second["metrics"] == first["metrics"]
    assert not second["new_version"] and second["mlflow_run_id"] == first["mlflow_run_id"] == before.info.run_id
    (after,) = mlflow_runs(first["kfp_run_id"])
    assert after.to_dictionary() == before.to_dictionary()
    assert not mlflow_runs(second["kfp_run_id"])


def test_the_log_shows_the_steps_own_lines_and_raw_shows_all(first):
    own, raw = (make("pipeline-logs", f"RUN={first['run_id']}", *more) for more in ((), ("RAW=1",)))
    assert own.returncode == raw.returncode == 0
    assert "epoch 1/1" in own.stdout and "launcher" not in own.stdout and "executor_input" not in own.stdout
    assert "launcher" in raw.stdout and len(own.stdout.splitlines()) < len(raw.stdout.splitlines()) / 3


def test_a_steps_log_is_found_by_label(first):
    labels = f"app.kubernetes.io/component=register,pipeline/runid={first['kfp_run_id']}"
    assert kubectl("-n", NAMESPACE, "logs", "-l", labels, "-c", "main", "--tail=-1").strip()


def test_the_pods_of_the_steps_are_restricted(first):
    pods = found("pods", "-l", f"app.kubernetes.io/part-of=dwi-stroke,pipeline/runid={first['kfp_run_id']}")
    bad = {pod["metadata"]["name"]: violations(pod["spec"]) for pod in pods}
    assert bad and not any(bad.values()), bad


def test_no_container_of_ours_restarts_during_a_run(start):
    def restarts() -> dict[str, int]:
        pods = json.loads(kubectl("-n", "dwi-stroke", "get", "pods", "-o", "json"))["items"]
        return {p["metadata"]["uid"]: sum(c["restartCount"] for c in p["status"]["containerStatuses"]) for p in pods}

    before = restarts()
    start("epochs=1").succeeded()
    assert restarts() == before


def test_after_the_pods_are_gone_the_archived_log_is_printed(start):
    run = start("epochs=1")
    run.succeeded()
    (workflow,) = {pod["metadata"]["labels"]["workflows.argoproj.io/workflow"]
                   for pod in found("pods", "-l", f"pipeline/runid={run.id}")}  # fmt: skip
    kubectl("-n", NAMESPACE, "delete", "workflow", workflow, "--wait=true")
    done = make("pipeline-logs", f"RUN={run.name}", "STEP=train")
    assert done.returncode == 0, done.stderr
    assert "its pod is gone: from s3://" in done.stdout and "epoch 1/1" in done.stdout
