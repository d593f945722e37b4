"""A machine with stand-ins for docker, kind, kubectl and git, and a cluster that answers over HTTP.

The stand-ins share one state in a file. The API server plays the scenes of the test, one for each look at it.
"""

import json
import shutil
import socket
import sys
from pathlib import Path

import yaml

from tests.support.kubernetes_stand_in import Kubernetes

SYSTEM = ("bash", "sh", "env", "dirname", "rm", "mkdir", "cp", "ls", "awk", "sed", "head", "od", "tr", "base64", "cat")
STAND_IN = '''#!{python} -IS
"""docker, kind, kubectl and git: enough of each for make kind-up."""
import json, os, sys

place = {place!r}
with open(place + "/state") as file:
    state = json.load(file)
program, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
line = " ".join([program, *arguments])
with open(place + "/calls", "a") as calls:
    calls.write(line + "\\n")
for start, said in state["failures"].items():
    if line.startswith(start):
        sys.exit(said)


def contexts(change=None):
    with open(os.environ["KUBECONFIG"]) as file:
        content = json.load(file)
    if change:
        change(content)
        with open(os.environ["KUBECONFIG"], "w") as file:
            json.dump(content, file)
    return content


def enter(content):
    name = "kind-dwi-stroke"
    content["current-context"] = name
    content["clusters"].append({{"name": name, "cluster": {{"server": state["server"]}}}})
    content["contexts"].append({{"name": name, "context": {{"cluster": name, "user": name}}}})


if program == "docker":
    if arguments[0] == "info":
        print(json.dumps(state["docker"]))
    elif arguments[:2] == ["image", "inspect"]:
        sys.exit(0 if "--format" in arguments or arguments[2] in state["images"] else "No such image")
    elif arguments[:2] == ["image", "ls"]:
        print(*state["images"], sep="\\n")
    elif arguments[0] == "build":
        state["images"].append(arguments[arguments.index("--tag") + 1])
    elif arguments[0] == "inspect":
        print("true" if state["running"] else "false")
    elif arguments[0] == "start":
        state["running"] = True
    elif arguments[0] == "exec":
        sys.exit(0 if arguments[-1].removeprefix("docker.io/") in state["loaded"] else "no such image")
elif program == "kind":
    if arguments[0] == "version":
        print(state["kind"])
    elif arguments[:2] == ["get", "clusters"]:
        print("dwi-stroke" if state["cluster"] else "")
    elif arguments[0] == "create":
        print("Creating cluster ...")
        state.update(cluster=True, complete=True, running=True)
        contexts(enter)
    elif arguments[0] == "export":
        contexts(enter)
    elif arguments[:2] == ["get", "kubeconfig"]:
        sys.exit(0 if state["complete"] else "no such file")
    elif arguments[0] == "delete":
        state.update(cluster=False, complete=False, loaded=[], kfp="")
    elif arguments[0] == "load":
        assert arguments[-1] in state["images"]
        state["loaded"].append(arguments[-1])
elif program == "git":
    if "clone" in arguments:
        for part in ("cluster-scoped-resources", "env/platform-agnostic"):
            folder = os.path.join(arguments[-1], "manifests/kustomize", part)
            os.makedirs(folder)
            with open(folder + "/kustomization.yaml", "w") as file:
                file.write("resources: [https://git.example/argo/crds?ref=v4.0.5&timeout=60s]")
elif arguments[0] == "version":
    print(state["kubectl"])
elif arguments[0] == "kustomize":
    with open(arguments[1] + "/kustomization.yaml") as file:
        print(file.read())
elif arguments[:2] == ["config", "current-context"]:
    print(contexts().get("current-context") or sys.exit(1))
elif arguments[:2] == ["config", "use-context"]:
    contexts(lambda content: content.update({{"current-context": arguments[2]}}))
else:
    assert arguments[:2] == ["--context", "kind-dwi-stroke"], "the context is not named: " + line
    rest = arguments[2:]
    if "annotate" in rest:
        state["kfp"] = rest[-1].split("=")[1]
    elif rest[:3] == ["get", "namespace", "kubeflow"] and "-o" in rest:
        print(state["kfp"])
    elif "workflow-controller-configmap" in rest and "get" in rest:
        print(json.dumps({{"data": state["argo"]}}))
    elif "workflow-controller-configmap" in rest:
        state["argo"].update(json.loads(rest[-1])["data"])
    elif "storageclass" in rest:
        sys.exit(0 if state["complete"] else 1)
    elif "secret" in rest:
        output = rest[rest.index("-o") + 1]
        print("secret/there" if output == "name" else "YS1rZXk=")
    elif rest[0] == "apply" and rest[-1] == "-":
        sys.stdin.read()
    elif rest[:2] == ["apply", "-k"]:
        state["applied"] = rest[2]
with open(place + "/state", "w") as file:
    json.dump(state, file)
'''


STOCK_ARGO = {
    "executor": "imagePullPolicy: IfNotPresent\n",
    "workflowDefaults": "spec:\n  ttlStrategy:\n    secondsAfterCompletion: 3600\n  templateDefaults:\n"
    "    retryStrategy:\n      limit: '2'\n      retryPolicy: OnError\n",
}
"""The data of workflow-controller-configmap, as far as KFP 2.17.0 sets it."""


class Machine:
    """`with Machine(folder) as machine`; `machine.path` is its PATH, `machine.kubeconfig` its KUBECONFIG."""

    def __init__(self, folder: Path):
        self.folder, self.path, self.kubeconfig = folder, folder / "tools", folder / "kubeconfig"
        self.path.mkdir(parents=True)
        for tool in SYSTEM:
            (self.path / tool).symlink_to(shutil.which(tool))
        for tool in ("docker", "kind", "kubectl", "git"):
            script = STAND_IN.format(python=sys.executable, place=str(folder))
            (self.path / tool).write_text(script)
            (self.path / tool).chmod(0o755)
        self.scenes, self.looks = [scene()], 0
        self.kubernetes = Kubernetes()
        self.kubernetes.before_answer = self._play
        self.has_room("4", "8Gi")
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "the-hospital",
                    "clusters": [],
                    "contexts": [{"name": "the-hospital", "context": {"cluster": "the-hospital", "user": ""}}],
                    "users": [{"name": "kind-dwi-stroke", "user": {}}],
                }
            )
        )
        self.now(
            docker={"ServerVersion": "29.1.0", "NCPU": 8, "MemTotal": 16e9},
            kind="kind v0.32.0 go1.26.0 linux/amd64",
            kubectl="Client Version: v1.33.1",
            cluster=False, complete=False, running=False, images=[], loaded=[], kfp="", applied="", failures={},
            argo=STOCK_ARGO,
        )  # fmt: skip

    def cluster_file(self, original: Path) -> Path:
        """A copy with two free ports, `ports`."""
        config, self.ports = yaml.safe_load(original.read_text()), []
        for mapping in config["nodes"][0]["extraPortMappings"]:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                mapping["hostPort"] = listener.getsockname()[1]
            self.ports.append(mapping["hostPort"])
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump(config))
        return self.folder / "cluster.yaml"

    def __enter__(self) -> "Machine":
        self.kubernetes.__enter__()
        self.now(server=self.kubernetes.url)
        return self

    def __exit__(self, *_) -> None:
        self.kubernetes.vanish()

    def _play(self, method: str, path: str) -> None:
        """Show the next scene when a look begins, with the list of the pods of the namespace kubeflow."""
        if path != "/api/v1/namespaces/kubeflow/pods":
            return
        scene, api = self.scenes[min(self.looks, len(self.scenes) - 1)], self.kubernetes
        self.looks += 1
        api.pods = self.other_pods + [w["pod"] for w in scene["workloads"]]
        api.workloads = {kind: [w["object"] for w in scene["workloads"] if w["kind"] == kind] for kind in api.workloads}
        api.events = [_event(number, text) for number, text in enumerate(scene["events"])]
        api.logs = {w["pod"]["metadata"]["name"]: scene["log"] for w in scene["workloads"]}

    @property
    def state(self) -> dict:
        file = self.folder / "state"
        return json.loads(file.read_text()) if file.exists() else {}

    def now(self, **changes) -> None:
        (self.folder / "state").write_text(json.dumps(self.state | changes))

    def has(self, *images: str) -> None:
        """All is installed, with these images, as after an earlier make kind-up."""
        self.now(cluster=True, complete=True, running=True, kfp="2.17.0", images=images, loaded=images)

    def has_room(self, cpu: str, memory: str, *pods: dict[str, str], init: dict[str, str] | None = None) -> None:
        """One node of this size, on it pods with these requests, each with an init container that asks for `init`."""
        node = {"metadata": {"name": "node"}, "status": {"allocatable": {"cpu": cpu, "memory": memory}}}
        containers = [[{"name": "c", "resources": {"requests": requests}}] for requests in pods]
        first = [{"name": "i", "resources": {"requests": init}}] if init else []
        self.other_pods = [
            {
                "metadata": {"name": f"pod-{number}", "namespace": "default"},
                "spec": {"nodeName": "node", "containers": asked, "initContainers": first},
                "status": {"phase": "Running"},
            }
            for number, asked in enumerate(containers)
        ]
        self.kubernetes.nodes = [node]

    def calls(self, start: str = "") -> list[str]:
        """What was asked of the programs, in order."""
        file = self.folder / "calls"
        return [c for c in (file.read_text().splitlines() if file.exists() else []) if c.startswith(start)]

    def forget_calls(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)

    def enter(self, context: str) -> None:
        content = json.loads(self.kubeconfig.read_text())
        self.kubeconfig.write_text(json.dumps(content | {"current-context": context}))

    def current_context(self) -> str:
        return json.loads(self.kubeconfig.read_text())["current-context"]


def scene(*workloads: dict, events: tuple[str, ...] = (), log: str = "") -> dict:
    """What the API server says at one look; without workloads, a cluster with everything ready."""
    ready = [workload("kubeflow", name) for name in ("ml-pipeline", "mysql")] + [workload("dwi-stroke", "mlflow")]
    return {"workloads": workloads or ready, "events": events, "log": log}


def workload(namespace: str, name: str, ready: bool = True, kind: str = "deployments", failed=False, **container):
    """A workload with one pod, whose only container is in the state given."""
    labels, conditions = {"app": name}, [{"type": "Ready", "status": str(ready)}]
    status = {"name": "app", "image": "", "imageID": "", "ready": ready, "restartCount": 0, **container}
    counts = {"replicas": 1, "readyReplicas": int(ready), "updatedReplicas": 1, "observedGeneration": 1}
    if kind == "jobs":
        counts = {"succeeded": int(ready), "conditions": [{"type": "Failed", "status": "True"}] if failed else []}
    return {
        "kind": kind,
        "namespace": namespace,
        "object": {
            "metadata": {"namespace": namespace, "name": name, "generation": 1},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {}, "serviceName": name},
            "status": counts,
        },
        "pod": {
            "metadata": {"namespace": namespace, "name": f"{name}-0", "uid": "u", "labels": labels},
            "spec": {"containers": [{"name": "app", "image": f"registry.example/{name}:1"}]},
            "status": {"phase": "Running", "conditions": conditions, "containerStatuses": [status]},
        },
    }


def _event(number: int, text: str) -> dict:
    reason, message = text.split(": ", 1)
    return {
        "metadata": {}, "involvedObject": {}, "type": "Normal", "reason": reason, "message": message,
        "lastTimestamp": f"2026-01-01T10:00:{number:02}Z",
    }  # fmt: skip
