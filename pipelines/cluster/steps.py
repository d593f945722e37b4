"""How far each step is, from what the KFP API tells of a run.

KFP 2.17 hands on the nodes of the run's Argo workflow, flat and without their ids (`run_details.task_details`). Those
of the step `train` are `train-driver` (asks the cache), `train` (a DAG), in it `executor` (skipped if the cache has
it), and where `executor` may be tried again `executor(0)`, `executor(1)`, ... Whose `executor` is whose is told by
`child_tasks`: the ids of a node's children, which Argo derives from their names.

A node that Argo omits, because a step before it failed, has a start time like any other, and no state. A run that
somebody terminates goes through CANCELING and ends as FAILED, and so does the step that was running.
"""

import datetime
from dataclasses import dataclass

from kfp_server_api import V2beta1PipelineTaskDetail, V2beta1Run

from pipelines.pipeline import STEPS

OVER = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
"""A run in one of these states changes no more."""
MOST_TRIES = 20
OMITTED = "RUNTIME_STATE_UNSPECIFIED"
LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Step:
    """ "running", "succeeded", "failed" or "stopped"; seconds so far as the cluster's clock told them; tries begun."""

    state: str
    seconds: float
    cached: bool
    tries: int


def outcome(run: V2beta1Run) -> str:
    """What a run that is over came to: "succeeded", "failed", or "stopped" where somebody terminated it."""
    if run.state == "SUCCEEDED":
        return "succeeded"
    return "stopped" if run.state == "CANCELED" or _terminated_at(run) else "failed"


def _terminated_at(run: V2beta1Run) -> datetime.datetime | None:
    """When somebody terminated the run. What was before KFP's Retry, which runs on an ended run, does not count."""
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
    """Every step that has begun, in the order in which they began."""
    details = (run.run_details and run.run_details.task_details) or []
    tasks = {task.display_name: task for task in details}
    children = {child.pod_name for task in details for child in task.child_tasks or []}
    terminated, begun, order = _terminated_at(run), {}, {}
    for step in STEPS:
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
    return {step: begun[step] for step in sorted(begun, key=order.get)}


def _ended_after(time: datetime.datetime | None, task: V2beta1PipelineTaskDetail) -> bool:
    """Argo's times are whole seconds."""
    return time is not None and (not _is_set(task.end_time) or task.end_time >= time.replace(microsecond=0))


def _is_set(time: datetime.datetime | None) -> bool:
    """Whether the server knows it: what it does not know comes as the year 1 or 1970."""
    return time is not None and time.year > 1970


def _state(driver: V2beta1PipelineTaskDetail, main: V2beta1PipelineTaskDetail | None, over: bool) -> str:
    if "FAILED" in (driver.state, main and main.state):
        return "failed"
    if main and main.state == "SUCCEEDED":
        return "succeeded"
    return "stopped" if over else "running"


def _executors(ids: set[str], step: str) -> list[str]:
    """The names of the step's executor nodes: of its tries where there are any, of the one skipped node otherwise.

    A cluster may be set up to try every node again, so that each part of a name may end in (0), (1), ...
    """
    names = sorted({node.rpartition("-")[0] for node in ids})[:1]
    for part in ("", ".root", f".{step}", ".executor"):
        tries = [[f"{name}{part}({n})" for n in range(MOST_TRIES)] for name in names]
        there = [[name for name in numbered if _node_id(name) in ids] for numbered in tries]
        names = [again for name, known in zip(names, there, strict=True) for again in known or [name + part]]
    return [name for name in names if _node_id(name) in ids]


def _node_id(name: str) -> str:
    """Argo's id of the node of this name: the workflow's name and an FNV-1a hash."""
    digest = 2166136261
    for byte in name.encode():
        digest = ((digest ^ byte) * 16777619) % 2**32
    return f"{name.partition('.')[0].partition('(')[0]}-{digest}"
