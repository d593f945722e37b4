"""Pods that are killed, deleted or evicted, runs that are terminated, schedules that are removed."""

import re
import time

import pytest

from pipelines.cluster import argo_retries
from pipelines.pipeline import STEPS
from tests.cluster.conftest import SMALL, TARGET, at_the_cluster, make, until
from tests.cluster.disturb import delete, evict, kill

pytestmark = pytest.mark.cluster

# early_stop_patience has no effect in so few epochs, but makes it another training: no cache, no checkpoint
EPOCHS = "epochs=8 early_stop_patience={}"
LONG = "epochs=200 early_stop_patience=200"


@pytest.fixture(scope="module")
def undisturbed(start) -> dict:
    return start(EPOCHS.format(20)).succeeded()


@pytest.fixture
def tries_again():
    with at_the_cluster() as (_, connection):
        if note := argo_retries.note(connection.core, connection.system_namespace):
            pytest.skip(note)


@pytest.mark.parametrize(("number", "how"), enumerate((kill, delete, evict), start=21))
def test_a_run_that_loses_each_steps_pod_once_has_the_same_result(tries_again, undisturbed, start, number, how):
    run = start(EPOCHS.format(number))
    hit = []
    for step in STEPS:
        pod = until(lambda step=step: run.process.poll() is not None or run.running(step))
        if pod is True:
            break
        how(pod)
        hit.append(step)
    summary = run.succeeded()
    assert "train" in hit
    assert summary["metrics"] == undisturbed["metrics"]


def test_a_failed_training_prints_where_the_same_command_continues_and_shows_no_later_step(start):
    run = start(LONG)
    until(lambda: run.running("train"))
    until(lambda: "epoch 3/200" in make("pipeline-logs", f"RUN={run.name}", "STEP=train").stdout)
    while run.process.poll() is None:  # until the last try
        if pod := run.running("train"):
            kill(pod)
        time.sleep(1)
    code, log = run.ended()
    last = [line for line in log.splitlines() if line.strip() and not line.startswith("make")][-1]
    assert code != 0 and re.fullmatch(r"The same command continues after epoch \d+\.", last)
    assert run.summary()["steps"]["train"]["state"] == "failed" and "evaluate" not in run.summary()["steps"]
    assert "[6/7]" not in log and "launcher" not in log and " Normal " not in log


def test_a_terminated_run_is_stopped_here_and_killed_in_mlflow(start, kfp_run, mlflow_runs):
    run = start(LONG)
    until(lambda: run.running("train"))
    until(lambda: mlflow_runs(run.id))
    with at_the_cluster() as (api, _):
        api.stop(run.id)
    code, log = run.ended()
    summary = run.summary()
    assert code != 0 and summary["status"] == "stopped" and "the run was stopped on the cluster" in log
    assert summary["steps"]["train"]["state"] == "stopped" and "evaluate" not in summary["steps"]
    assert "failed" not in log and "SIGTERM" not in log
    assert kfp_run(run.id).state == "FAILED"  # KFP's own state; ours comes from its history
    assert [run.info.status for run in mlflow_runs(run.id)] == ["KILLED"]


@pytest.fixture
def schedule(new_scans):
    """The name of a schedule; its run begins within a minute and trains for a long time."""
    settings = f"SET={SMALL} {LONG}"
    done = make("pipeline-schedule", f"TARGET={TARGET}", f"DATA={new_scans()}", settings, "CRON=* * * * *")
    assert done.returncode == 0, done.stderr
    name = next(line for line in done.stdout.splitlines() if line.startswith("schedule ")).split()[1].rstrip(":")
    yield name
    make("pipeline-schedules", f"TARGET={TARGET}", f"REMOVE={name}", "FORCE=1")


def test_a_schedule_is_paused_and_not_removed_while_its_run_is_open(schedule, kfp_run, mlflow_runs):
    def runs() -> list:
        with at_the_cluster() as (api, _):
            experiment = api.experiment("dwi-stroke-segmentation")
            (kept,) = [s for s in api.schedules(experiment) if s.display_name == schedule]
            return api.runs_of_schedule(experiment, kept.recurring_run_id)

    (run, *_) = until(runs)
    until(lambda: mlflow_runs(run.run_id))
    refused = make("pipeline-schedules", f"TARGET={TARGET}", f"REMOVE={schedule}")
    assert refused.returncode != 0 and "is paused" in refused.stderr and run.display_name in refused.stderr
    assert kfp_run(run.run_id).state == "RUNNING" and len(runs()) == 1
    (logged,) = mlflow_runs(run.run_id)
    assert logged.info.run_name == run.display_name
    assert not run.plugins_output
    forced = make("pipeline-schedules", f"TARGET={TARGET}", f"REMOVE={schedule}", "FORCE=1")
    assert forced.returncode == 0, forced.stderr
    assert kfp_run(run.run_id).state == "FAILED"  # KFP knows of its end
