"""A small HTTP stand-in for the API of Kubeflow Pipelines, built from the models of its client.

`Workflow` turns the steps of a run into what KFP 2.17 returns of the nodes of its Argo workflow.
"""

import datetime
import json
import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as kfp

from pipelines.pipeline import STEPS
from tests.support.http_stand_in import Server

OVER = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
RUN_ID = "0b6f2d3c-5f0e-4d3a-9a53-000000000001"
START = datetime.datetime(2024, 11, 5, 7, 0, tzinfo=datetime.UTC)
NEVER = datetime.datetime(1, 1, 1, tzinfo=datetime.UTC)
STATES = {
    "Pending": "PENDING", "Running": "RUNNING", "Succeeded": "SUCCEEDED", "Skipped": "SKIPPED", "Failed": "FAILED",
    "Error": "FAILED", "Omitted": "RUNTIME_STATE_UNSPECIFIED",
}  # fmt: skip


def node_id(name: str) -> str:
    """Argo's: the workflow's name and the FNV-1a hash of the node's name."""
    h = 0x811C9DC5
    for byte in name.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{re.split(r'[.(]', name)[0]}-{h}"


class Workflow:
    """The steps of a run, as Argo's nodes; with `retry_all` the cluster's default is to try every node again.

    Once a step has failed, the steps that never began are there too: Argo omits them, and gives them a start time.
    """

    def __init__(self, name: str = "dwi-stroke-segmentation-x7k2p", retry_all: bool = False):
        self.name, self.retry_all = name, retry_all
        self.nodes: list[tuple] = []
        self.clock = 0
        self.root = self._node(self._node(name, name, "Running"), "root", "Running")
        self._node(name, "root-driver", "Succeeded")

    def step(
        self, name: str, phase: str = "Succeeded", seconds: int = 12, cached: bool = False,
        tries: int = 1, driver: str = "Succeeded", after: int = 0,
    ) -> "Workflow":  # fmt: skip
        """A step that begins where the one before ended, `after` moves that; it ends in `phase`."""
        start = self.clock + after
        self.clock = start + seconds
        ends = (start, self.clock if phase not in ("Running", "Pending") else None)
        self._node(self.root, f"{name}-driver", driver, start, start + 1)
        if driver != "Succeeded":
            self._node(self.root, name, "Omitted", start, start)
            return self
        main = self._node(self.root, name, phase, *ends)
        if cached:
            self._node(main, "executor", "Skipped", *ends, leaf=True)
            return self
        executor = self._node(main, "executor", phase, *ends, leaf=True)
        for n in range(tries):
            self._add(f"{executor}({n})", f"executor({n})", phase if n == tries - 1 else "Failed", *ends, executor)
        return self

    def _node(self, parent: str, name: str, phase: str, start: int = 0, end: int | None = None, leaf=False) -> str:
        """Add a node; the name that its children's names begin with."""
        full = name if name == parent else f"{parent}.{name}"
        self._add(full, name, phase, start, end, None if name == parent else parent)
        if not self.retry_all or leaf:
            return full
        self._add(f"{full}(0)", f"{name}(0)", phase, start, end, full)
        return f"{full}(0)"

    def _add(self, name, display, phase, start, end, parent) -> None:
        self.nodes.append((name, display, phase, start, end, parent))

    def _omitted(self) -> list[tuple]:
        """The nodes of the steps that do not begin because one before them failed."""
        if not any(phase in ("Failed", "Error") for _, _, phase, *_ in self.nodes):
            return []
        there = {display for _, display, *_ in self.nodes}
        left = [step for step in STEPS if f"{step}-driver" not in there]
        names = [name for step in left for name in (f"{step}-driver", step)]
        return [(f"{self.root}.{name}", name, "Omitted", self.clock, self.clock, self.root) for name in names]

    def details(self) -> list[kfp.V2beta1PipelineTaskDetail]:
        nodes = [*self.nodes, *self._omitted()]
        at = lambda second: START + datetime.timedelta(seconds=second) if second is not None else NEVER  # noqa: E731
        children = {name: [node_id(child) for child, *_, of in nodes if of == name] for name, *_ in nodes}
        return [
            kfp.V2beta1PipelineTaskDetail(
                run_id=RUN_ID, task_id=f"task-{number}", display_name=display, create_time=START,
                start_time=at(start), end_time=at(end), state=STATES[phase],
                child_tasks=[kfp.PipelineTaskDetailChildTask(pod_name=child) for child in children[name]],
            )
            for number, (name, display, phase, start, end, _) in enumerate(nodes)
        ]  # fmt: skip


class Kubeflow(Server):
    """The KFP API behind its UI, whose /healthz is the UI's own.

    `stages` are what a run goes through, one step a look: a run state and its workflow (or what makes them).
    """

    def __init__(self):
        super().__init__()
        self.token: str | None = None
        self.multi_user = False
        self.most_per_page = 2
        self.pipelines: list[kfp.V2beta1Pipeline] = []
        self.versions: list[kfp.V2beta1PipelineVersion] = []
        self.experiments: list[kfp.V2beta1Experiment] = []
        self.runs: list[kfp.V2beta1Run] = []
        self.schedules: list[kfp.V2beta1RecurringRun] = []
        self.lost: list[str] = []
        """Runs whose pods ended with their schedule: Kubernetes removes its Workflows, and KFP notices nothing."""
        self.stages: list[tuple[str, Workflow] | Callable] = []
        self.uploaded: list[bytes] = []
        self.created_at = START

    def add_version(self, name: str, description: str = "") -> None:
        number = len(self.versions) + 1
        self.versions.append(
            kfp.V2beta1PipelineVersion(
                pipeline_id="p-1",
                pipeline_version_id=f"v-{number}",
                name=name,
                display_name=name,
                created_at=START,
                description=description,
            )
        )

    def route(self, method, path, body):
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        place = parts.path.removeprefix("/apis/v2beta1")
        if place == parts.path:
            return 200, "<!doctype html><title>Kubeflow Pipelines</title>"
        if self.token and f"Bearer {self.token}" not in [h.get("authorization") for h in self.headers[-1:]]:
            return 401, "Jwt is missing"
        if place == "/healthz":
            ui = {"frontendTagName": "2.17.0", "apiServerReady": True, "apiServerMultiUser": self.multi_user}
            return 200, json.dumps(ui | {"multi_user": self.multi_user})
        if query.get("namespace") and not self.multi_user:
            return error(400, "In single-user mode, nothing can be filtered by namespace.")
        answer = self._answer(method, place, query, body)
        return answer if isinstance(answer, tuple) else (200, as_json(answer))

    def _answer(self, method, place, query, body):
        new = json.loads(body) if body.startswith(b"{") else {}
        match method, place.strip("/").split("/"):
            case "GET", ["pipelines"]:
                return self._page(kfp.V2beta1ListPipelinesResponse, "pipelines", self.pipelines, query)
            case "POST", ["pipelines"]:
                self.pipelines.append(kfp.V2beta1Pipeline(**{**new, "pipeline_id": "p-1"}, created_at=START))
                return self.pipelines[-1]
            case "GET", ["pipelines", "p-1", "versions"]:
                return self._page(kfp.V2beta1ListPipelineVersionsResponse, "pipeline_versions", self.versions, query)
            case "POST", ["pipelines", "upload_version"]:
                self.uploaded.append(body)
                self.add_version(query["name"], query.get("description", ""))
                return self.versions[-1]
            case "GET", ["experiments"]:
                return self._page(kfp.V2beta1ListExperimentsResponse, "experiments", self.experiments, query)
            case "POST", ["experiments"]:
                self.experiments.append(kfp.V2beta1Experiment(**{**new, "experiment_id": "e-1"}))
                return self.experiments[-1]
            case "GET", ["runs"]:
                return self._page(kfp.V2beta1ListRunsResponse, "runs", self.runs, query)
            case "POST", ["runs"]:
                run = kfp.V2beta1Run(**{**new, "run_id": RUN_ID}, created_at=self.created_at, state_history=[])
                if not (run.plugins_input or {}).get("mlflow", {}).get("disabled"):
                    run.plugins_output = {"mlflow": kfp.V2beta1PluginOutput(state="PLUGIN_FAILED")}
                self.runs.append(self._enter(run, "PENDING"))
                return run
            case "GET", ["runs", run_id]:
                if run_id not in [run.run_id for run in self.runs]:
                    return error(404, f"Run {run_id} not found.")
                return self._look(run_id)
            case "POST", ["runs", which] if which.endswith(":terminate"):
                self.terminate(which.removesuffix(":terminate"))
                return 200, "{}"
            case "GET", ["recurringruns"]:
                return self._page(kfp.V2beta1ListRecurringRunsResponse, "recurring_runs", self.schedules, query)
            case "POST", ["recurringruns"]:
                number = len(self.schedules) + 1
                self.schedules.append(
                    kfp.V2beta1RecurringRun(**{**new, "recurring_run_id": f"r-{number}"}, status="ENABLED")
                )
                return self.schedules[-1]
            case "POST", ["recurringruns", which] if which.endswith(":disable"):
                (schedule,) = [s for s in self.schedules if s.recurring_run_id == which.removesuffix(":disable")]
                schedule.mode, schedule.status = "DISABLE", "DISABLED"
                return 200, "{}"
            case "DELETE", ["recurringruns", wanted]:
                self.schedules = [s for s in self.schedules if s.recurring_run_id != wanted]
                self.lost += [r.run_id for r in self.runs if r.recurring_run_id == wanted and r.state not in OVER]
                return 200, "{}"
        return error(404, f"Not Found: {method} {place}")

    def terminate(self, run_id: str) -> None:
        """Begin to end a run: KFP 2.17 calls it CANCELING now and FAILED later, never CANCELED."""
        self._enter(self._run(run_id), "CANCELING")

    def add_run(self, name: str, schedule: str, state: str) -> kfp.V2beta1Run:
        """A run that a schedule has started."""
        number = len(self.runs) + 1
        run = kfp.V2beta1Run(run_id=f"scheduled-{number}", display_name=name, experiment_id="e-1",
                             recurring_run_id=schedule, created_at=START, state_history=[])  # fmt: skip
        self.runs.append(self._enter(run, state))
        return run

    def _run(self, run_id: str) -> kfp.V2beta1Run:
        return next(run for run in reversed(self.runs) if run.run_id == run_id)

    def _enter(self, run: kfp.V2beta1Run, state: str) -> kfp.V2beta1Run:
        if run.state != state:
            at = START + datetime.timedelta(seconds=len(run.state_history))
            run.state_history = [*run.state_history, kfp.V2beta1RuntimeStatus(update_time=at, state=state)]
        run.state = state
        return run

    def _look(self, run_id: str) -> kfp.V2beta1Run:
        run = self._run(run_id)
        if run_id != RUN_ID:  # of a schedule: it ends when it is told to
            return self._enter(run, "FAILED") if run.state == "CANCELING" else run
        stage = self.stages.pop(0) if len(self.stages) > 1 else self.stages[0]
        stage = stage() if callable(stage) else stage
        run.run_details = kfp.V2beta1RunDetails(task_details=stage[1].details())
        return self._enter(run, stage[0])

    def _page(self, response, field: str, items: list, query: dict):
        if "filter" in query:
            (predicate,) = json.loads(query["filter"])["predicates"]
            items = [item for item in items if getattr(item, predicate["key"]) == predicate["stringValue"]]
        first = int(query.get("page_token") or 0)
        last = first + min(int(query.get("page_size") or 20), self.most_per_page)
        more = {"next_page_token": str(last)} if last < len(items) else {}
        return response(**({field: items[first:last]} if items[first:last] else {}), **more)


def error(code: int, message: str) -> tuple[int, str]:
    """As the KFP API puts it."""
    return code, json.dumps({"error": message, "code": 5, "message": message, "details": []})


def as_json(model) -> str:
    return json.dumps(kfp.ApiClient().sanitize_for_serialization(model))
