"""Make and remove the local cluster: kind, Kubeflow Pipelines, MLflow and our images.

    up(Path(".local"))      makes what is missing, and prints its progress
    down(Path(".local"))    removes the cluster

Every kubectl command names the context: no other cluster is changed.
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

from components.core.errors import StepError
from components.registry.tracking import TRAINING_VIEW
from pipelines.cluster import argo_retries, prerequisites
from pipelines.cluster.connect import KIND, NO_LOGIN
from pipelines.cluster.free_resources import room_for_steps
from pipelines.cluster.programs import kubectl, output_of, run_shown, succeeds
from pipelines.cluster.ready import wait_until_ready
from pipelines.image_tags import ROOT, sources_tag
from pipelines.ports import HOST, is_free

NAME, CONTEXT, NODE = "dwi-stroke", KIND["context"], "dwi-stroke-control-plane"
KIND_CONFIG = ROOT / "manifests" / "kind" / "cluster.yaml"
KFP_VERSION, KFP_SOURCES = "2.17.0", "https://github.com/kubeflow/pipelines"
KFP_PARTS = ("cluster-scoped-resources", "env/platform-agnostic")
KFP_PATCHES = {"seaweedfs": "seaweedfs.yaml", "workflow-controller": "workflow-controller.yaml"}
KFP_MARK = "dwi-stroke/installed-kfp"  # annotation of the namespace kubeflow, once KFP is applied as a whole
NAMESPACES = ("kubeflow", "dwi-stroke")
IMAGES = ("components", "mlflow")  # a train step without GPUs runs in components
FETCH_SECONDS, START_SECONDS = 900, 180


def up(state: Path) -> None:
    """Make the parts of the cluster that are missing, and wait until all are ready.

    Raises:
        StepError: a program is missing on this machine, or a part does not start.
    """
    start, work = time.monotonic(), state.resolve() / "kind"
    print(f"A local cluster with Kubeflow Pipelines {KFP_VERSION} and MLflow.")
    prerequisites.announce("The first time takes 15 to 60 minutes, with many GB of downloads.")
    prerequisites.check()
    work.mkdir(parents=True, exist_ok=True)
    tag = sources_tag()
    _step(1, "the cluster")
    _provide_cluster()
    _step(2, f"Kubeflow Pipelines {KFP_VERSION}")
    _kubeflow_pipelines(work)
    _configure_retries()
    _step(3, f"the images, {tag}")
    for name in IMAGES:
        _provide_image(name, f"dwi-stroke/{name}:{tag}")
    _step(4, "MLflow, its database, the bucket, secrets and network policies")
    _apply_own_manifests(work, tag)
    _step(5, "waiting until everything is ready (after Ctrl-C the cluster continues; make kind-up waits again)")
    _say("some parts fail at first, and restart until the parts that they need are ready")
    count = wait_until_ready(CONTEXT, NAMESPACES)
    _say(room_for_steps(CONTEXT))
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    kfp, mlflow = _ports()
    print(f"\nReady: all {count} parts, after {minutes} min {seconds} s.")
    print(f"  Kubeflow Pipelines  http://{HOST}:{kfp}  ({NO_LOGIN})")
    print(f"  MLflow              http://{HOST}:{mlflow}/#/experiments{TRAINING_VIEW}")
    print("                      log in: make mlflow TARGET=kind")
    print(f"  kubectl             kubectl --context {CONTEXT} get pods -A")
    print("  next                make pipeline-run TARGET=kind     (make kind-down removes the cluster)")


def provide_image() -> None:
    """Build the image of the steps and load it into the cluster, if its code has changed."""
    image = f"dwi-stroke/components:{sources_tag()}"
    if shutil.which("docker") and succeeds("docker", "inspect", NODE) and not _is_loaded(image):
        _provide_image("components", image)


def down(state: Path) -> None:
    """Remove the cluster if it exists, and print which images stay.

    Raises:
        StepError: docker or kind is missing, or the cluster cannot be removed.
    """
    prerequisites.require(prerequisites.docker(), prerequisites.kind())
    exists = NAME in _clusters()
    if exists:
        run_shown("kind", "delete", "cluster", "--name", NAME)
    shutil.rmtree(state / "kind", ignore_errors=True)
    print(f"The cluster {NAME} is removed, with all data in it." if exists else "There is no cluster to remove.")
    if images := output_of("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "dwi-stroke/*").split():
        print(f"These images stay in docker; to remove them too: docker image rm {' '.join(images)}")


def _step(number: int, what: str) -> None:
    print(f"\n[{number}/5] {what}", flush=True)


def _say(line: str) -> None:
    print(f"      {line}", flush=True)


def _kubectl(*arguments: str) -> tuple[str, ...]:
    return kubectl(CONTEXT, *arguments)


def _clusters() -> list[str]:
    return output_of("kind", "get", "clusters").split()


def _ports() -> list[int]:
    """Return the ports of this machine that are forwarded to Kubeflow Pipelines and to MLflow."""
    (node,) = yaml.safe_load(KIND_CONFIG.read_text())["nodes"]
    return [mapping["hostPort"] for mapping in node["extraPortMappings"]]


def _provide_cluster() -> None:
    if NAME not in _clusters():
        _create()
    elif _is_complete():
        _say("exists")
    else:
        _say("was not finished: making it again")
        run_shown("kind", "delete", "cluster", "--name", NAME)
        _create()
    output_of(*_kubectl("-n", "kube-system", "patch", "daemonset", "kindnet", *_patch("kindnet.yaml")))


def _create() -> None:
    if taken := [str(port) for port in _ports() if not is_free(port)]:
        raise StepError(
            f"Another program on {HOST} has port {' and '.join(taken)}. Stop it, or change hostPort in {KIND_CONFIG}."
        )
    with _keep_current_context() as own:
        run_shown("kind", "create", "cluster", "--config", str(KIND_CONFIG), "--wait", f"{START_SECONDS}s")
    if own:
        _say(f"your current kube context stays {own}; this cluster's is {CONTEXT}")


@contextlib.contextmanager
def _keep_current_context() -> Iterator[str]:
    """Yield the user's current kube context, and set it again at the end: kind replaces it by its own."""
    current = subprocess.run(["kubectl", "config", "current-context"], capture_output=True, text=True).stdout.strip()
    own = "" if current == CONTEXT else current
    try:
        yield own
    finally:
        if own:
            output_of("kubectl", "config", "use-context", own)


def _is_complete() -> bool:
    """Return whether the cluster is complete; start its node if it was stopped."""
    if output_of("docker", "inspect", "--format", "{{.State.Running}}", NODE) != "true":
        _say("was stopped: starting it")
        output_of("docker", "start", NODE)
    if not succeeds("kind", "get", "kubeconfig", "--name", NAME):
        return False  # kind stopped before this point
    with _keep_current_context():
        output_of("kind", "export", "kubeconfig", "--name", NAME)
    deadline = time.monotonic() + START_SECONDS
    while not succeeds(*_kubectl("get", "--raw", "/readyz")):
        if time.monotonic() > deadline:
            raise StepError(
                f"The cluster {NAME} exists, but its API server has not answered for {START_SECONDS} s. Is the machine "
                f"out of memory or disk? See docker logs {NODE}; make kind-down && make kind-up makes it again."
            )
        time.sleep(2)
    return succeeds(*_kubectl("get", "storageclass", "standard"))  # kind makes it last


def _kubeflow_pipelines(work: Path) -> None:
    mark = f"jsonpath={{.metadata.annotations.{KFP_MARK}}}"
    if output_of(*_kubectl("get", "namespace", "kubeflow", "--ignore-not-found", "-o", mark)) == KFP_VERSION:
        _say("is installed")
        _patch_kubeflow_pipelines()  # the patches may be newer than the installation
        return
    manifests = _kfp_manifests(work)
    _say("applying it")
    output_of(*_kubectl("apply", "-f", str(manifests[0])))
    output_of(*_kubectl("wait", "--for", "condition=established", "--timeout", "120s", "crd", "--all"))
    output_of(*_kubectl("apply", "-f", str(manifests[1])))
    _patch_kubeflow_pipelines()
    output_of(*_kubectl("annotate", "--overwrite", "namespace", "kubeflow", f"{KFP_MARK}={KFP_VERSION}"))


def _patch_kubeflow_pipelines() -> None:
    for deployment, file in KFP_PATCHES.items():
        output_of(*_kubectl("-n", "kubeflow", "patch", "deployment", deployment, *_patch(file)))


def _configure_retries() -> None:
    """Make Argo retry failed steps; its controller does so from the next run on, without a restart."""
    namespace, config_map = ("-n", "kubeflow"), ("configmap", argo_retries.CONFIG_MAP)
    data = json.loads(output_of(*_kubectl(*namespace, "get", *config_map, "-o", "json"))).get("data") or {}
    if (wanted := data | argo_retries.with_retries(data)) != data:
        output_of(
            *_kubectl(*namespace, "patch", *config_map, "--type", "merge", "--patch", json.dumps({"data": wanted}))
        )
        _say("failed steps are retried")


def _kfp_manifests(work: Path) -> list[Path]:
    """Return KFP's manifests of the pinned version, rendered to files once: kubectl would download them each time."""
    files = [work / f"kfp-{KFP_VERSION}-{Path(part).name}.yaml" for part in KFP_PARTS]
    if all(file.exists() for file in files):
        return files
    _say("downloading its manifests (some minutes)")
    checkout = work / "pipelines"
    shutil.rmtree(checkout, ignore_errors=True)
    sparse = ("--depth", "1", "--filter", "blob:none", "--sparse", "--branch", KFP_VERSION)
    output_of("git", "-c", "advice.detachedHead=false", "clone", *sparse, KFP_SOURCES, str(checkout))
    output_of("git", "-C", str(checkout), "sparse-checkout", "set", "manifests/kustomize")
    for file in checkout.rglob("kustomization.yaml"):  # they download Argo's manifests; kustomize waits 27 s
        text = re.sub(r"(\?ref=[\w.-]+)(&timeout=\w+)?", rf"\1&timeout={FETCH_SECONDS}s", file.read_text())
        file.write_text(text)
    for part, file in zip(KFP_PARTS, files, strict=True):
        rendered = output_of("kubectl", "kustomize", str(checkout / "manifests" / "kustomize" / part))
        unfinished = file.with_suffix(".part")
        unfinished.write_text(rendered + "\n")
        unfinished.rename(file)
    shutil.rmtree(checkout)
    return files


def _is_loaded(image: str) -> bool:
    return succeeds("docker", "exec", NODE, "crictl", "inspecti", f"docker.io/{image}")


def _provide_image(name: str, image: str) -> None:
    if _is_loaded(image):
        _say(f"{image} is in the cluster")
        return
    if not succeeds("docker", "image", "inspect", image):
        _say(f"building {image} (some minutes)")
        run_shown(str(ROOT / "images" / "build"), sources_tag(), env={**os.environ, "IMAGES": name})
    _say(f"loading {image} into the cluster")
    run_shown("kind", "load", "docker-image", "--name", NAME, image)


def _apply_own_manifests(work: Path, tag: str) -> None:
    run_shown(str(ROOT / "manifests" / "create-secrets.sh"), "kind", env={**os.environ, "CONTEXT": CONTEXT})
    output_of(*_kubectl("-n", "dwi-stroke", "delete", "job", "create-bucket", "--ignore-not-found"))
    output_of(*_kubectl("apply", "-k", str(_overlay(work, tag))))


def _overlay(work: Path, tag: str) -> Path:
    """Write a kustomization of overlays/kind with the images of this tag; return its folder."""
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
    return "--patch-file", str(KIND_CONFIG.with_name(name))
