"""What KFP tells of a run's workflow, and how far each step is by that."""

import datetime

import kfp_server_api as kfp
import pytest

from pipelines.cluster.steps import outcome, steps_of
from tests.support.kubeflow_stand_in import START, Workflow, node_id


def run_of(workflow: Workflow, *states: str) -> kfp.V2beta1Run:
    """A run that went through these states, a second each."""
    states = states or ("RUNNING",)
    history = [
        kfp.V2beta1RuntimeStatus(update_time=START + datetime.timedelta(seconds=n, microseconds=700), state=state)
        for n, state in enumerate(states)
    ]
    details = kfp.V2beta1RunDetails(task_details=workflow.details())
    return kfp.V2beta1Run(state=states[-1], state_history=history, run_details=details)


@pytest.mark.parametrize(
    ("name", "number"),
    [("debug-component-pipeline-d6wjn.root-driver", 2907082658), ("lovely-bear.hooks.failed", 2163413524)],
)
def test_the_stand_in_numbers_nodes_as_argo_did(name, number):
    assert node_id(name) == f"{name.split('.')[0]}-{number}"


def test_a_run_that_has_not_begun_has_no_steps():
    assert steps_of(kfp.V2beta1Run(state="PENDING")) == {}
    assert steps_of(run_of(Workflow())) == {}


@pytest.mark.parametrize("retry_all", [False, True], ids=["KFP's retries", "the cluster tries every node again"])
def test_each_step_has_its_own_state(retry_all):
    workflow = Workflow(retry_all=retry_all).step("fingerprint", seconds=4).step("ingest", cached=True, seconds=0)
    workflow.step("preprocess", tries=3).step("split", phase="Running")
    steps = steps_of(run_of(workflow))
    assert list(steps) == ["fingerprint", "ingest", "preprocess", "split"]
    assert [s.state for s in steps.values()] == ["succeeded", "succeeded", "succeeded", "running"]
    assert [s.cached for s in steps.values()] == [False, True, False, False]
    assert [s.tries for s in steps.values()] == [1, 0, 3, 1]
    assert steps["fingerprint"].seconds == 4 and steps["split"].seconds == 0


def test_one_of_two_steps_side_by_side_may_come_from_cache():
    workflow = Workflow().step("preprocess", cached=True).step("split", after=-12)
    assert {name: step.cached for name, step in steps_of(run_of(workflow)).items()} == {
        "preprocess": True,
        "split": False,
    }


def test_a_step_whose_driver_failed_has_failed():
    steps = steps_of(run_of(Workflow().step("ingest", driver="Error"), "FAILED"))
    assert steps["ingest"].state == "failed" and not steps["ingest"].cached


def test_what_still_ran_when_the_run_was_over_was_stopped():
    steps = steps_of(run_of(Workflow().step("train", phase="Running"), "CANCELED"))
    assert steps["train"].state == "stopped"


def test_what_argo_omits_after_a_failure_has_not_begun():
    workflow = Workflow().step("fingerprint").step("ingest", phase="Failed")
    assert "train-driver" in [task.display_name for task in workflow.details()]
    for run in (run_of(workflow), run_of(workflow, "FAILED")):
        assert {name: step.state for name, step in steps_of(run).items()} == {
            "fingerprint": "succeeded",
            "ingest": "failed",
        }


@pytest.mark.parametrize(
    ("states", "came_to"),
    [
        (("PENDING", "RUNNING", "SUCCEEDED"), "succeeded"),
        (("PENDING", "RUNNING", "FAILED"), "failed"),
        (("RUNNING", "CANCELING", "FAILED"), "stopped"),
        (("RUNNING", "CANCELING", "RUNNING", "FAILED"), "stopped"),  # it was reported once more before its end
        (("RUNNING", "CANCELING", "SUCCEEDED"), "succeeded"),  # too late
        (("RUNNING", "CANCELING", "FAILED", "RUNNING", "FAILED"), "failed"),  # KFP's Retry, after a termination
        (("RUNNING", "FAILED", "RUNNING", "CANCELING", "FAILED"), "stopped"),
        (("CANCELED",), "stopped"),
    ],
)
def test_a_terminated_run_is_told_from_a_failed_one(states, came_to):
    assert outcome(run_of(Workflow(), *states)) == came_to


def test_the_step_that_a_termination_ended_was_stopped_and_one_that_failed_before_has_failed():
    workflow = Workflow().step("preprocess", seconds=1, phase="Failed").step("split", seconds=2, phase="Failed")
    for states in (("PENDING", "RUNNING", "RUNNING", "CANCELING"), ("PENDING", "RUNNING", "", "CANCELING", "FAILED")):
        states = [step.state for step in steps_of(run_of(workflow, *states)).values()]
        assert states == ["failed", "stopped"]


def test_where_the_nodes_are_not_as_known_nothing_is_taken_for_cached():
    workflow = Workflow().step("train")
    details = [task for task in workflow.details() if task.display_name in ("train", "train-driver")]
    for task in details:
        task.child_tasks = [kfp.PipelineTaskDetailChildTask(pod_name="another-7")]
    run = kfp.V2beta1Run(state="RUNNING", run_details=kfp.V2beta1RunDetails(task_details=details))
    assert steps_of(run)["train"].state == "succeeded" and not steps_of(run)["train"].cached
