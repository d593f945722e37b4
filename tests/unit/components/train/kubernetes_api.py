"""A small stand-in for the API server of a cluster with Kubeflow Trainer: one TrainJob, its pods, their logs."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/kubeflow/trainjobs"
PODS, EVENTS = "/api/v1/namespaces/kubeflow/pods", "/api/v1/namespaces/kubeflow/events"


class KubernetesApi:
    """What a test sets is `job`, `pods`, `logs` and `refusals`; `on_look` is called before each answer about the job.

    A refusal is (verb, the path's beginning) to (status, body), given once for each entry of a list.
    """

    def __init__(self):
        self.job, self.pods, self.logs, self.events = None, [], {}, []
        self.refusals, self.on_look = {}, lambda: None
        self.asked, self.submitted, self.patches = [], [], []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, answer = api.answer(self.command, self.path, body, self.headers)
                text = answer if isinstance(answer, str) else json.dumps(answer)
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_DELETE = do_PATCH = handle_any

            def log_message(self, *_): ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, verb: str, target: str, body, headers) -> tuple[int, object]:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        self.asked.append((verb, path))
        for (refused, beginning), answers in self.refusals.items():
            if verb == refused and path.startswith(beginning) and answers:
                return answers.pop(0)
        if path.startswith(JOBS):
            return self._about_the_job(verb, path, query, body, headers)
        if path == PODS:
            assert query["labelSelector"] == [f"jobset.sigs.k8s.io/jobset-name={self.job['metadata']['name']}"]
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": self.pods}
        if path == EVENTS:
            return 200, {"kind": "EventList", "apiVersion": "v1", "items": self.events}
        assert path.endswith("/log") and query["container"] == ["node"] and query["timestamps"] == ["True"], target
        lines = self.logs.get(path.split("/")[-2])
        return (400, "waiting to start: ContainerCreating") if lines is None else (200, "".join(lines))

    def _about_the_job(self, verb, path, query, body, headers) -> tuple[int, object]:
        if verb == "POST":
            self.submitted.append(body)
            self.job = {**body, "status": {}}
            return 201, self.job
        if verb == "GET":
            self.on_look()
        if self.job is None:
            return 404, {"kind": "Status", "message": "trainjobs.trainer.kubeflow.org not found"}
        assert path == f"{JOBS}/{self.job['metadata']['name']}"
        if verb == "PATCH":
            assert headers["Content-Type"] == "application/merge-patch+json"
            self.patches.append(body)
        if verb == "DELETE":
            assert query["propagationPolicy"] == ["Foreground"]
            self.job = None
            return 200, {"kind": "Status", "status": "Success"}
        return 200, self.job

    def end(self, kind: str, message: str = "all jobs ended") -> None:
        self.job["status"] = {"conditions": [{"type": kind, "status": "True", "reason": kind, "message": message}]}

    def say(self, node: int, *texts: str) -> None:
        """Lines in the log of a node's pod, one a millisecond after the other over all nodes."""
        for text in texts:
            number = sum(map(len, self.logs.values()))
            self.logs.setdefault(f"node-{node}", []).append(f"2026-11-23T07:00:00.{number:09d}Z {text}\n")


def pod(node: int, phase: str = "Running", **status) -> dict:
    return {
        "metadata": {
            "name": f"node-{node}",
            "annotations": {"batch.kubernetes.io/job-completion-index": str(node)},
        },
        "spec": {"containers": [{"name": "node"}]},
        "status": {"phase": phase, **status},
    }


def container(**state) -> dict:
    """The status of a pod whose container is in this state."""
    status = {"name": "node", "image": "registry/trainer:1", "imageID": "", "ready": False, "restartCount": 0}
    return {"containerStatuses": [{**status, "state": state}]}
