"""`make pipeline-schedule` and `make pipeline-schedules`."""

import pytest

from components.core.errors import StepError
from pipelines.cluster.schedules import six_fields


@pytest.mark.parametrize(
    ("given", "kfps"),
    [
        ("0 2 * * *", "0 0 2 * * *"),
        ("30 6 * * 1-5", "0 30 6 * * 1-5"),
        ("*/15 8-18/2 1,15 jan-jun MON", "0 */15 8-18/2 1,15 jan-jun MON"),
        ("15 0 2 * * ?", "15 0 2 * * ?"),
    ],
)
def test_five_fields_become_kfps_six(given, kfps):
    assert six_fields(given) == kfps


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("2am", "has 1 fields"),
        ("0 24 * * *", "'24' is not a valid hour. Valid are 0 to 23"),
        ("0 2 * * 7", "'7' is not a valid day of the week. Valid are 0 to 6 or sun to sat"),
        ("0 2 0 * *", "'0' is not a valid day of the month"),
        ("0 9-8 * * *", "'9-8' is not a valid hour"),
        ("*/0 * * * *", r"'\*/0' is not a valid minute"),
        ("0 2 L * *", "'L' is not a valid day of the month"),
    ],
)
def test_what_is_no_cron_string_is_told_by_field(given, said):
    with pytest.raises(StepError, match=said):
        six_fields(given)


@pytest.fixture
def schedule(cluster):
    return lambda *more: cluster("schedule", "--target", "kind", "--data", "s3://dwi-stroke/scans", *more)


def test_a_schedule_runs_the_same_pipeline_with_the_same_arguments(schedule, kubeflow, capsys):
    assert schedule("--cron", "0 2 * * *", "--set", "epochs=3") == 0
    (made,) = kubeflow.schedules
    assert made.trigger == {"cron_schedule": {"cron": "0 0 2 * * *"}} and made.mode == "ENABLE"
    assert made.runtime_config["parameters"]["epochs"] == 3
    assert made.pipeline_version_reference == {"pipeline_id": "p-1", "pipeline_version_id": "v-1"}
    assert made.max_concurrency == "1" and made.no_catchup is True
    assert made.plugins_input == {"mlflow": {"disabled": True}}  # of KFP itself; it would fail at each run
    out = capsys.readouterr().out
    assert '"0 0 2 * * *" (the first field is the second)' in out and "UTC" in out
    assert not kubeflow.runs


def test_a_schedule_says_too_what_its_cluster_does_not_try_again(schedule, kubernetes, capsys):
    kubernetes.config_maps["kubeflow/workflow-controller-configmap"] = {"workflowDefaults": "spec: {}"}
    assert schedule("--cron", "0 2 * * *") == 0
    assert "not retried on this cluster" in capsys.readouterr().out


def test_a_wrong_cron_string_touches_no_cluster(schedule, kubeflow, capsys):
    assert schedule("--cron", "0 99 * * *") == 1
    assert "is not a valid hour" in capsys.readouterr().err and not kubeflow.requests


def test_schedules_are_listed_and_removed_by_name_or_id(schedule, cluster, kubeflow, capsys):
    for cron in ("0 1 * * *", "0 2 * * *", "0 3 * * *"):
        schedule("--cron", cron)
        kubeflow.schedules[-1].display_name += cron[2]  # they were made within one second
    capsys.readouterr()
    assert cluster("schedules", "--target", "kind") == 0
    listed = capsys.readouterr().out.splitlines()[1:]
    assert len(listed) == 3 and '"0 0 1 * * *"  s3://dwi-stroke/scans' in listed[0] and listed[0].endswith("r-1")
    assert cluster("schedules", "--target", "kind", "--remove", "r-1") == 0
    assert cluster("schedules", "--target", "kind", "--remove", kubeflow.schedules[0].display_name) == 0
    assert [s.recurring_run_id for s in kubeflow.schedules] == ["r-3"]
    assert cluster("schedules", "--target", "kind", "--remove", "r-9") == 1
    assert "there is no schedule 'r-9'. Schedules: " in capsys.readouterr().err


@pytest.fixture
def scheduled(schedule, kubeflow, capsys):
    """A schedule; one of its runs is over, beside a run that somebody else started and that goes on."""
    schedule("--cron", "0 2 * * *")
    kubeflow.add_run("nightly-1", "r-1", "SUCCEEDED")
    kubeflow.add_run("by hand", "", "RUNNING")
    kubeflow.add_run("another schedule's", "r-2", "RUNNING")
    capsys.readouterr()
    return kubeflow


def test_a_schedule_whose_run_is_under_way_is_paused_and_not_removed(cluster, scheduled, capsys):
    run = scheduled.add_run("nightly-2", "r-1", "RUNNING")
    assert cluster("schedules", "--target", "kind", "--remove", "r-1") == 1
    said = capsys.readouterr().err
    assert "is paused" in said and "its run nightly-2 is open" in said and "FORCE=1" in said
    assert "make pipeline-schedules TARGET=kind REMOVE=r-1" in said
    assert scheduled.schedules[0].status == "DISABLED" and not scheduled.lost and run.state == "RUNNING"
    cluster("schedules", "--target", "kind")
    assert "disabled" in capsys.readouterr().out
    run.state = "SUCCEEDED"
    assert cluster("schedules", "--target", "kind", "--remove", "r-1") == 0
    assert not scheduled.schedules and not scheduled.lost


def test_it_is_paused_before_its_runs_are_looked_for(cluster, scheduled):
    assert cluster("schedules", "--target", "kind", "--remove", "r-1") == 0
    asked = [line.partition("/apis/v2beta1/")[2] for line in scheduled.requests]
    assert asked.index("recurringruns/r-1:disable") < asked.index("runs") < asked.index("recurringruns/r-1")


def test_with_force_the_run_is_stopped_first_so_that_kfp_knows_of_its_end(cluster, scheduled, capsys):
    run = scheduled.add_run("nightly-2", "r-1", "RUNNING")
    assert cluster("schedules", "--target", "kind", "--remove", "r-1", "--force", "1") == 0
    assert "stopped its run nightly-2" in capsys.readouterr().out
    assert run.state == "FAILED" and not scheduled.lost and not scheduled.schedules
    assert [r.state for r in scheduled.runs if r.recurring_run_id != "r-1"] == ["RUNNING", "RUNNING"]


def test_a_run_that_does_not_stop_keeps_its_schedule(cluster, scheduled, capsys):
    scheduled.add_run("nightly-2", "r-1", "RUNNING")
    scheduled.terminate = lambda run_id: None
    assert cluster("schedules", "--target", "kind", "--remove", "r-1", "--force", "1") == 1
    assert "did not stop within 0.5 s" in capsys.readouterr().err and scheduled.schedules and not scheduled.lost


def test_without_schedules_it_says_how_to_make_one(cluster, capsys):
    assert cluster("schedules", "--target", "kind") == 0
    assert 'make pipeline-schedule CRON="0 2 * * *"' in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["schedules"], ["schedule", "--cron", "0 2 * * *"]])
def test_locally_they_want_a_cluster(cluster, capsys, arguments):
    assert cluster(*arguments) == 1
    assert "TARGET=kind or TARGET=cluster" in capsys.readouterr().err
