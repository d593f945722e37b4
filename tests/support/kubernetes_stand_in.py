"""A small HTTP stand-in for the Kubernetes API, with Kubeflow Trainer's TrainJob.

Its objects are the models of the client, or JSON as the API server sends it.
"""

import base64
import datetime
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from kubernetes import client as kube

from tests.support.http_stand_in import Server
from tests.support.kubeflow_stand_in import RUN_ID, START

TRAIN_JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/kubeflow/trainjobs"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\S+Z ")
EXECUTOR_INPUT = {"inputs": {"parameterValues": {"epochs": 2, "cca": False, "ratios": [0.6, 0.2], "none": None}}}
BEFORE_A_STEP = f"""\
time=2024-11-05T07:00:00.000Z level=INFO msg="capturing logs" argo=true
I1105 07:00:00.000000       1 launcher_v2.go:195] publish info:
executorInput={json.dumps(EXECUTOR_INPUT, indent=2)}
/usr/local/lib/python3.11/site-packages/kfp/dsl/types.py:10: FutureWarning: an old way
  warnings.warn(
[KFP Executor 2024-11-05 07:00:01,000 INFO]: Looking for component `step` in --component_module_path `/tmp/x.py`
[KFP Executor 2024-11-05 07:00:01,000 INFO]: Got executor_input:
{json.dumps(EXECUTOR_INPUT, indent=4)}
"""
AFTER_A_STEP = f"""\
Wrote executor output file to /tmp/kfp_outputs/output_metadata.json.
I1105 07:00:09.000000       1 launcher_v2.go:900] ExecutorOutput: {json.dumps(EXECUTOR_INPUT, indent=2)}
I1105 07:00:09.000000       1 launcher_v2.go:151] publish success.
time=2024-11-05T07:00:10.000Z level=INFO msg="sub-process exited" argo=true error=<nil>
"""
"""What Argo 4's executor, KFP 2.17's launcher and its executor write around a step's own lines."""


class Kubernetes(Server):
    """The Kubernetes API, as far as the code asks it.

    A test sets the objects below. `before_answer(method, path)` is called before each answer, and may change them.
    `refusals` has by (method, beginning of the path) the answers (status, body) to give first.
    """

    def __init__(self):
        super().__init__()
        self.pods: list[kube.V1Pod | dict] = []
        self.logs: dict[str, str] = {}
        """By pod; a pod that is missing here has not started. Lines may have a time stamp of their own."""
        self.events: list[kube.CoreV1Event | dict] = []
        self.nodes: list[dict] = []
        self.workloads: dict[str, list[dict]] = {"deployments": [], "statefulsets": [], "jobs": []}
        self.config_maps: dict[str, dict[str, str]] = {}
        login = {"MLFLOW_TRACKING_TOKEN": base64.b64encode(b"the cluster's login").decode()}
        self.secrets: dict[str, dict[str, str]] = {"kubeflow/dwi-stroke-mlflow": login}
        self.train_job: dict | None = None
        self.submitted: list[dict] = []
        self.patches: list[dict] = []
        self.refusals: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.before_answer: Callable[[str, str], None] = lambda method, path: None

    def kubeconfig(self, path: Path, *contexts: str) -> Path:
        named = [{"name": c, "context": {"cluster": "here", "user": "me"}} for c in contexts]
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": contexts[0], "contexts": named,
            "clusters": [{"name": "here", "cluster": {"server": self.url}}], "users": [{"name": "me", "user": {}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(config))
        return path

    def route(self, method, path, body):
        path, query = urlsplit(path).path, parse_qs(urlsplit(path).query)
        options = {name: values[0] for name, values in query.items()}
        for (refused, beginning), answers in self.refusals.items():
            if method == refused and path.startswith(beginning) and answers:
                return as_answer(*answers.pop(0))
        self.before_answer(method, path)
        if path.startswith(TRAIN_JOBS):
            return as_answer(*self._answer_train_job(method, path, options, json.loads(body) if body else None))
        return as_answer(*self._answer(path, options))

    def _answer(self, path: str, options: dict[str, str]) -> tuple[int, Any]:
        match re.sub(r"^/apis?/(\w+/)?v1/", "", path).split("/"):
            case ["nodes"]:
                return 200, {"items": self.nodes}
            case ["pods"]:
                return 200, {"items": self.pods}
            case ["namespaces", namespace, "pods"]:
                return 200, {"items": self._pods(namespace, options.get("labelSelector", ""))}
            case ["namespaces", namespace, "pods", name]:
                found = [pod for pod in self._pods(namespace) if pod["metadata"]["name"] == name]
                return (200, found[0]) if found else status(404, f'pods "{name}" not found')
            case ["namespaces", _, "pods", name, "log"]:
                return self._log(name, options)
            case ["namespaces", _, "events"]:
                return 200, {"items": self._events(options["fieldSelector"])}
            case ["namespaces", namespace, kind] if kind in self.workloads:
                return 200, {"items": in_namespace(self.workloads[kind], namespace)}
            case ["namespaces", namespace, "configmaps", name] if f"{namespace}/{name}" in self.config_maps:
                return 200, {"data": self.config_maps[f"{namespace}/{name}"]}
            case ["namespaces", namespace, "secrets", name] if f"{namespace}/{name}" in self.secrets:
                return 200, {"data": self.secrets[f"{namespace}/{name}"]}
        return status(404, f"{path} not found")

    def _pods(self, namespace: str, selector: str = "") -> list[dict]:
        wanted = dict(pair.split("=") for pair in selector.split(",") if pair)
        pods = in_namespace(self.pods, namespace)
        return [pod for pod in pods if wanted.items() <= pod["metadata"].get("labels", {}).items()]

    def _log(self, pod: str, options: dict[str, str]) -> tuple[int, Any]:
        if pod not in self.logs:
            return status(400, "container is waiting to start: ContainerCreating")
        lines = self.logs[pod].splitlines(keepends=True)[-int(options.get("tailLines", 1000)) :]
        if options.get("timestamps") == "True":
            lines = [line if STAMP.match(line) else stamp(number) + line for number, line in enumerate(lines)]
        return 200, "".join(lines)

    def _events(self, selector: str) -> list[dict]:
        """Return the events that the selector does not exclude; an event without a field is not excluded by it."""
        wanted = dict(pair.split("=") for pair in selector.split(","))
        found = []
        for event in as_json(self.events):
            fields = {f"involvedObject.{name}": value for name, value in event["involvedObject"].items()}
            fields |= {"type": event.get("type", "Normal")}
            if all(fields.get(name, value) == value for name, value in wanted.items()):
                found.append(event)
        return found

    def _answer_train_job(self, method: str, path: str, options: dict[str, str], body: Any) -> tuple[int, Any]:
        if method == "POST":
            self.submitted.append(body)
            self.train_job = {**body, "status": {}}
            return 201, self.train_job
        if self.train_job is None:
            return status(404, "trainjobs.trainer.kubeflow.org not found")
        assert path == f"{TRAIN_JOBS}/{self.train_job['metadata']['name']}"
        if method == "PATCH":
            assert self.headers[-1]["Content-Type"] == "application/merge-patch+json"
            self.patches.append(body)
        if method == "DELETE":
            assert options["propagationPolicy"] == "Foreground"
            self.train_job = None
            return 200, {"kind": "Status", "status": "Success"}
        return 200, self.train_job

    def end_train_job(self, condition: str, message: str = "all jobs ended") -> None:
        ended = {"type": condition, "status": "True", "reason": condition, "message": message}
        self.train_job["status"] = {"conditions": [ended]}

    def add_node_log(self, node: int, *texts: str) -> None:
        """Add lines to the log of a training node's pod; each line is later than all lines before it."""
        for text in texts:
            number = sum(log.count("\n") for log in self.logs.values())
            self.logs[f"node-{node}"] = self.logs.get(f"node-{node}", "") + f"{stamp(number)}{text}\n"

    def add_pod(self, step: str, phase: str, log: str = "", driver: bool = False, **container) -> kube.V1Pod:
        """A pod of the run; `container` is the state of its container main (waiting=..., terminated=...)."""
        name = f"dwi-stroke-segmentation-x7k2p-{'driver' if driver else 'impl'}-{len(self.pods)}"
        labels = {"pipeline/runid": RUN_ID} | ({} if driver else {"app.kubernetes.io/component": step})
        node = f"dwi-stroke-segmentation-x7k2p.root.{step}" + ("-driver" if driver else ".executor(0)")
        of = {
            "waiting": kube.V1ContainerStateWaiting,
            "running": kube.V1ContainerStateRunning,
            "terminated": kube.V1ContainerStateTerminated,
        }
        state = {name: of[name](**fields) for name, fields in container.items()}
        main = kube.V1ContainerStatus(
            name="main", image="", image_id="", ready=False, restart_count=0, state=kube.V1ContainerState(**state)
        )
        pod = kube.V1Pod(
            metadata=kube.V1ObjectMeta(
                name=name, namespace="kubeflow", uid=name, labels=labels,
                annotations={"workflows.argoproj.io/node-name": node},
                creation_timestamp=START + datetime.timedelta(seconds=len(self.pods)),
            ),
            spec=kube.V1PodSpec(containers=[kube.V1Container(name="main", image="dwi-stroke/components:abc")]),
            status=kube.V1PodStatus(phase=phase, container_statuses=[main]),
        )  # fmt: skip
        self.pods.append(pod)
        self.logs[name] = log if driver or not log else BEFORE_A_STEP + log + AFTER_A_STEP
        return pod

    def add_event(self, pod: kube.V1Pod, reason: str, message: str, kind: str = "Warning") -> None:
        about = kube.V1ObjectReference(name=pod.metadata.name)
        self.events.append(
            kube.CoreV1Event(
                metadata=kube.V1ObjectMeta(name="event"),
                involved_object=about,
                type=kind,
                reason=reason,
                message=message,
                last_timestamp=START,
            )
        )


def node_pod(job: str, node: int, phase: str = "Running", **pod_status) -> dict:
    """Return the pod of a node of a TrainJob."""
    return {
        "metadata": {
            "name": f"node-{node}",
            "namespace": "kubeflow",
            "labels": {"jobset.sigs.k8s.io/jobset-name": job},
            "annotations": {"batch.kubernetes.io/job-completion-index": str(node)},
        },
        "spec": {"containers": [{"name": "node", "image": "registry/trainer:1"}]},
        "status": {"phase": phase, **pod_status},
    }


def node_container(**state) -> dict:
    """Return the status of a node's pod whose container is in this state."""
    fields = {"name": "node", "image": "registry/trainer:1", "imageID": "", "ready": False, "restartCount": 0}
    return {"containerStatuses": [{**fields, "state": state}]}


def fake_kubectl(patch, folder: Path, services: dict[str, int]) -> Callable[[], list[list]]:
    """Put a kubectl first on PATH that forwards to these ports; what it was called with, its process id first."""
    folder.mkdir()
    script = Path(__file__).parent / "fake_kubectl.py"
    (folder / "kubectl").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    (folder / "kubectl").chmod(0o755)
    (folder / "calls").touch()
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    patch.setenv("CALLS", str(folder / "calls"))
    patch.setenv("SERVICES", json.dumps(services))
    return lambda: [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def in_namespace(objects: list, namespace: str) -> list[dict]:
    return [found for found in as_json(objects) if found["metadata"]["namespace"] == namespace]


def stamp(number: int) -> str:
    return f"2024-11-05T07:00:00.{number:09d}Z "


def status(code: int, message: str) -> tuple[int, dict]:
    """Return an error as the Kubernetes API sends it."""
    return code, {"kind": "Status", "status": "Failure", "message": message, "code": code}


def as_answer(code: int, content: Any) -> tuple[int, str]:
    return code, content if isinstance(content, str) else json.dumps(as_json(content))


def as_json(content: Any) -> Any:
    return kube.ApiClient().sanitize_for_serialization(content)
