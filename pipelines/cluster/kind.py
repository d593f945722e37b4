"""The local cluster: kind, Kubeflow Pipelines, MLflow and our images, made and removed by one command each.

    up(Path(".local"))      makes what is missing, and says what it does; a second time it finds everything there
    down(Path(".local"))    removes the cluster

Every kubectl names the context: no other cluster is touched.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from components.core.step import StepError
from components.registry.tracking import TRAINING_VIEW
from pipelines.cluster import argo_retries, prerequisites
from pipelines.cluster.connect import NO_LOGIN
from pipelines.cluster.free_resources import room_for_steps
from pipelines.cluster.kubernetes import sources_tag
from pipelines.cluster.programs import quiet, shown, succeeds
from pipelines.cluster.ready import wait_until_ready
from pipelines.image_tags import ROOT
from pipelines.local.services import HOST, is_free

NAME, CONTEXT, NODE = "dwi-stroke", "kind-dwi-stroke", "dwi-stroke-control-plane"
CLUSTER = ROOT / "manifests" / "kind" / "cluster.yaml"
KFP_VERSION, KFP_SOURCES = "2.17.0", "https://github.com/kubeflow/pipelines"
KFP_PARTS = ("cluster-scoped-resources", "env/platform-agnostic")
KFP_PATCHES = {"seaweedfs": "seaweedfs.yaml", "workflow-controller": "workflow-controller.yaml"}
KFP_MARK = "dwi-stroke/installed-kfp"  # on the namespace kubeflow, once all of it was applied
NAMESPACES = ("kubeflow", "dwi-stroke")
IMAGES = ("components", "mlflow")  # a train step without GPUs runs in components
FETCH_SECONDS, START_SECONDS = 900, 180


def up(state: Path) -> None:
    """Make the cluster and all that is in it, as far as it is missing, and wait until everything is ready.

    Raises:
        StepError: what is missing on this machine, or what went wrong and what to do.
    """
    began, work = time.monotonic(), state.resolve() / "kind"
    print(f"A local cluster with Kubeflow Pipelines {KFP_VERSION} and MLflow.")
    prerequisites.announce("The first time takes 15 to 60 minutes, with many GB of downloads.")
    prerequisites.check()
    work.mkdir(parents=True, exist_ok=True)
    tag = sources_tag()
    _step(1, "the cluster")
    _cluster()
    _step(2, f"Kubeflow Pipelines {KFP_VERSION}")
    _kubeflow_pipelines(work)
    _retries()
    _step(3, f"the images, {tag}")
    for name in IMAGES:
        _image(name, f"dwi-stroke/{name}:{tag}")
    _step(4, "MLflow, its database, the bucket, secrets and network policies")
    _ours(work, tag)
    _step(5, "waiting until everything is ready (Ctrl-C leaves it going on; make kind-up looks again)")
    _say("parts that need others fail at first, and are started again until those are there")
    count = wait_until_ready(CONTEXT, NAMESPACES)
    _say(room_for_steps(CONTEXT))
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    kfp, mlflow = _ports()
    print(f"\nReady: all {count} parts, after {minutes} min {seconds} s.")
    print(f"  Kubeflow Pipelines  http://{HOST}:{kfp}  ({NO_LOGIN})")
    print(f"  MLflow              http://{HOST}:{mlflow}/#/experiments{TRAINING_VIEW}")
    print("                      log in: make mlflow TARGET=kind")
    print(f"  kubectl             kubectl --context {CONTEXT} get pods -A")
    print("  next                make pipeline-run TARGET=kind     (make kind-down removes the cluster)")


def provide_image() -> None:
    """Build the steps' image and load it into the cluster, if code has changed since that was done last."""
    image = f"dwi-stroke/components:{sources_tag()}"
    if shutil.which("docker") and succeeds("docker", "inspect", NODE) and not _is_loaded(image):
        _image("components", image)


def down(state: Path) -> None:
    """Remove the cluster, if it is there, and say what stays.

    Raises:
        StepError: docker or kind is missing, or the cluster cannot be removed.
    """
    prerequisites.require(prerequisites.docker(), prerequisites.kind())
    there = NAME in _clusters()
    if there:
        shown("kind", "delete", "cluster", "--name", NAME)
    shutil.rmtree(state / "kind", ignore_errors=True)
    print(
        f"The cluster {NAME} is removed, with all that was stored in it." if there else "There is no cluster to remove."
    )
    if images := quiet("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "dwi-stroke/*").split():
        print(f"These images stay in docker; to remove them too: docker image rm {' '.join(images)}")


def _step(number: int, what: str) -> None:
    print(f"\n[{number}/5] {what}", flush=True)


def _say(line: str) -> None:
    print(f"      {line}", flush=True)


def _kubectl(*arguments: str) -> tuple[str, ...]:
    return ("kubectl", "--context", CONTEXT, *arguments)


def _clusters() -> list[str]:
    return quiet("kind", "get", "clusters").split()


def _ports() -> list[int]:
    """The ports of this machine that lead to Kubeflow Pipelines and to MLflow."""
    (node,) = yaml.safe_load(CLUSTER.read_text())["nodes"]
    return [mapping["hostPort"] for mapping in node["extraPortMappings"]]


def _cluster() -> None:
    if NAME not in _clusters():
        _create()
    elif _complete():
        _say("is there")
    else:
        _say("was left half made: making it anew")
        shown("kind", "delete", "cluster", "--name", NAME)
        _create()
    quiet(*_kubectl("-n", "kube-system", "patch", "daemonset", "kindnet", *_patch("kindnet.yaml")))


def _create() -> None:
    if taken := [str(port) for port in _ports() if not is_free(port)]:
        raise StepError(
            f"Taken by another program on {HOST}: port {' and '.join(taken)}. Stop it, or change hostPort in {CLUSTER}."
        )
    with _own_context_kept() as own:
        shown("kind", "create", "cluster", "--config", str(CLUSTER), "--wait", f"{START_SECONDS}s")
    if own:
        _say(f"your current kube context stays {own}; this cluster's is {CONTEXT}")


@contextlib.contextmanager
def _own_context_kept() -> Iterator[str]:
    """kind makes its cluster the current one of the user's kubectl; undo that. Yields the user's own, if any."""
    current = subprocess.run(["kubectl", "config", "current-context"], capture_output=True, text=True).stdout.strip()
    own = "" if current == CONTEXT else current
    try:
        yield own
    finally:
        if own:
            quiet("kubectl", "config", "use-context", own)


def _complete() -> bool:
    """Whether the cluster was made to its end; its node is started if it was stopped."""
    if quiet("docker", "inspect", "--format", "{{.State.Running}}", NODE) != "true":
        _say("was stopped: starting it")
        quiet("docker", "start", NODE)
    if not succeeds("kind", "get", "kubeconfig", "--name", NAME):
        return False  # kind did not come so far
    with _own_context_kept():
        quiet("kind", "export", "kubeconfig", "--name", NAME)
    deadline = time.monotonic() + START_SECONDS
    while not succeeds(*_kubectl("get", "--raw", "/readyz")):
        if time.monotonic() > deadline:
            raise StepError(
                f"The cluster {NAME} is there, but its API server has not answered for {START_SECONDS} s. Is the "
                f"machine out of memory or disk? See docker logs {NODE}; make kind-down && make kind-up makes it anew."
            )
        time.sleep(2)
    return succeeds(*_kubectl("get", "storageclass", "standard"))  # what kind makes last


def _kubeflow_pipelines(work: Path) -> None:
    mark = f"jsonpath={{.metadata.annotations.{KFP_MARK}}}"
    if quiet(*_kubectl("get", "namespace", "kubeflow", "--ignore-not-found", "-o", mark)) == KFP_VERSION:
        _say("is installed")
        _patch_kubeflow_pipelines()  # patches may be newer than it
        return
    manifests = _kfp_manifests(work)
    _say("applying it")
    quiet(*_kubectl("apply", "-f", str(manifests[0])))
    quiet(*_kubectl("wait", "--for", "condition=established", "--timeout", "120s", "crd", "--all"))
    quiet(*_kubectl("apply", "-f", str(manifests[1])))
    _patch_kubeflow_pipelines()
    quiet(*_kubectl("annotate", "--overwrite", "namespace", "kubeflow", f"{KFP_MARK}={KFP_VERSION}"))


def _patch_kubeflow_pipelines() -> None:
    for deployment, file in KFP_PATCHES.items():
        quiet(*_kubectl("-n", "kubeflow", "patch", "deployment", deployment, *_patch(file)))


def _retries() -> None:
    """Have Argo try failed steps again; its controller takes it up for the next run, without a restart."""
    of, what = ("-n", "kubeflow"), ("configmap", argo_retries.CONFIG_MAP)
    data = json.loads(quiet(*_kubectl(*of, "get", *what, "-o", "json"))).get("data") or {}
    if (wanted := data | argo_retries.mended(data)) != data:
        quiet(*_kubectl(*of, "patch", *what, "--type", "merge", "--patch", json.dumps({"data": wanted})))
        _say("failed steps are tried again")


def _kfp_manifests(work: Path) -> list[Path]:
    """KFP's own manifests at the pinned tag, rendered once into files: kubectl would download them each time."""
    files = [work / f"kfp-{KFP_VERSION}-{Path(part).name}.yaml" for part in KFP_PARTS]
    if all(file.exists() for file in files):
        return files
    _say("downloading its manifests (some minutes)")
    checkout = work / "pipelines"
    shutil.rmtree(checkout, ignore_errors=True)
    sparse = ("--depth", "1", "--filter", "blob:none", "--sparse", "--branch", KFP_VERSION)
    quiet("git", "-c", "advice.detachedHead=false", "clone", *sparse, KFP_SOURCES, str(checkout))
    quiet("git", "-C", str(checkout), "sparse-checkout", "set", "manifests/kustomize")
    for file in checkout.rglob("kustomization.yaml"):  # they fetch Argo's from its repository, within 27 seconds
        patient = re.sub(r"(\?ref=[\w.-]+)(&timeout=\w+)?", rf"\1&timeout={FETCH_SECONDS}s", file.read_text())
        file.write_text(patient)
    for part, file in zip(KFP_PARTS, files, strict=True):
        rendered = quiet("kubectl", "kustomize", str(checkout / "manifests" / "kustomize" / part))
        unfinished = file.with_suffix(".part")
        unfinished.write_text(rendered + "\n")
        unfinished.rename(file)
    shutil.rmtree(checkout)
    return files


def _is_loaded(image: str) -> bool:
    return succeeds("docker", "exec", NODE, "crictl", "inspecti", f"docker.io/{image}")


def _image(name: str, image: str) -> None:
    if _is_loaded(image):
        _say(f"{image} is in the cluster")
        return
    if not succeeds("docker", "image", "inspect", image):
        _say(f"building {image} (some minutes)")
        shown(str(ROOT / "images" / "build"), sources_tag(), env={**os.environ, "IMAGES": name})
    _say(f"loading {image} into the cluster")
    shown("kind", "load", "docker-image", "--name", NAME, image)


def _ours(work: Path, tag: str) -> None:
    shown(str(ROOT / "manifests" / "create-secrets.sh"), "kind", env={**os.environ, "CONTEXT": CONTEXT})
    quiet(*_kubectl("-n", "dwi-stroke", "delete", "job", "create-bucket", "--ignore-not-found"))
    quiet(*_kubectl("apply", "-k", str(_overlay(work, tag))))


def _overlay(work: Path, tag: str) -> Path:
    """overlays/kind with the images of this tag."""
    folder = work / "overlay"
    folder.mkdir(exist_ok=True)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(ROOT.resolve() / "manifests" / "overlays" / "kind", folder)],
        "images": [{"name": f"dwi-stroke/{name}", "newTag": tag} for name in IMAGES],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization, sort_keys=False))
    return folder


def _patch(name: str) -> tuple[str, str]:
    return "--patch-file", str(CLUSTER.with_name(name))
