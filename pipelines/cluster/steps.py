"""The progress of each step, from the answer of the KFP API on a run.

KFP 2.17 returns the nodes of the run's Argo workflow as a flat list without their ids (`run_details.task_details`). The
nodes of the step `train` are `train-driver` (asks the cache), `train` (a DAG), in it `executor` (skipped if the cache
has its outputs), and where `executor` may be retried `executor(0)`, `executor(1)`, ... The field `child_tasks` shows
which `executor` belongs to which step: it has the ids of a node's children, which Argo computes from their names.

A node that Argo omits, because a step before it failed, has a start time but no state. A run that a user terminates
changes to CANCELING and then to FAILED, and so does the step that was running.
"""

import datetime
from dataclasses import dataclass

from kfp_server_api import V2beta1PipelineTaskDetail, V2beta1Run

from pipelines.pipeline import EVERY_STEP

OVER = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
"""The final states of a run."""
MAX_TRIES = 20
OMITTED = "RUNTIME_STATE_UNSPECIFIED"
LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Step:
    """A step's state ("running", "succeeded", "failed", "stopped"), its seconds by the cluster's clock, its tries."""

    state: str
    seconds: float
    cached: bool
    tries: int


def outcome(run: V2beta1Run) -> str:
    """Return the outcome of a run that is over: "succeeded", "failed", or "stopped" where a user terminated it."""
    if run.state == "SUCCEEDED":
        return "succeeded"
    return "stopped" if run.state == "CANCELED" or _terminated_at(run) else "failed"


def _terminated_at(run: V2beta1Run) -> datetime.datetime | None:
    """Return when a user terminated the run; None where nobody did since KFP's last Retry of it."""
    history = list(run.state_history or [])
    while history and history[-1].state in OVER:
        history.pop()
    for entry in reversed(history):
        if entry.state in OVER:
            return None
        if entry.state == "CANCELING":
            return entry.update_time or LONG_AGO
    return None


def steps_of(run: V2beta1Run) -> dict[str, Step]:
    """Return the steps that have begun, in the order of their start."""
    details = (run.run_details and run.run_details.task_details) or []
    tasks = {task.display_name: task for task in details}
    children = {child.pod_name for task in details for child in task.child_tasks or []}
    terminated, begun, order = _terminated_at(run), {}, {}
    for step in EVERY_STEP:
        driver, main = tasks.get(f"{step}-driver"), tasks.get(step)
        if driver is None or driver.state in (None, OMITTED) or not _is_set(driver.start_time):
            continue
        state = _state(driver, main, run.state in OVER)
        if state == "failed" and _ended_after(terminated, main or driver):
            state = "stopped"
        ends = [task.end_time for task in (driver, main) if task and _is_set(task.end_time)]
        seconds = (max(ends) - driver.start_time).total_seconds() if ends and state != "running" else 0.0
        executors = _executors(children, step)
        tries = sum(name.endswith(")") for name in executors)
        cached = state == "succeeded" and bool(executors) and not tries
        begun[step], order[step] = Step(state, max(seconds, 0.0), cached, tries), driver.start_time
    return {step: begun[step] for step in sorted(begun, key=lambda step: order[step])}


def _ended_after(time: datetime.datetime | None, task: V2beta1PipelineTaskDetail) -> bool:
    """Return whether a task ended after a time; Argo's times are whole seconds."""
    return time is not None and (not _is_set(task.end_time) or task.end_time >= time.replace(microsecond=0))


def _is_set(time: datetime.datetime | None) -> bool:
    """Return whether the server knows the time: an unknown time has the year 1 or 1970."""
    return time is not None and time.year > 1970


def _state(driver: V2beta1PipelineTaskDetail, main: V2beta1PipelineTaskDetail | None, over: bool) -> str:
    if "FAILED" in (driver.state, main and main.state):
        return "failed"
    if main and main.state == "SUCCEEDED":
        return "succeeded"
    return "stopped" if over else "running"


def _executors(ids: set[str], step: str) -> list[str]:
    """Return the names of the step's executor nodes: of its tries, or of the one skipped node.

    A cluster may be configured to retry every node: then each part of a name may end in (0), (1), ...
    """
    names = sorted({node.rpartition("-")[0] for node in ids})[:1]
    for part in ("", ".root", f".{step}", ".executor"):
        tries = [[f"{name}{part}({n})" for n in range(MAX_TRIES)] for name in names]
        found = [[name for name in numbered if _node_id(name) in ids] for numbered in tries]
        names = [retried for name, retries in zip(names, found, strict=True) for retried in retries or [name + part]]
    return [name for name in names if _node_id(name) in ids]


def _node_id(name: str) -> str:
    """Return Argo's id of the node of this name: the workflow's name and an FNV-1a hash."""
    digest = 2166136261
    for byte in name.encode():
        digest = ((digest ^ byte) * 16777619) % 2**32
    return f"{name.partition('.')[0].partition('(')[0]}-{digest}"
