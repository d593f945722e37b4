"""The objects of an overlay: rendered by kubectl, or put together here from the files without any program."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

import yaml

MANIFESTS = Path(__file__).parents[3] / "manifests"
OVERLAYS = {"base": MANIFESTS / "base"} | {o: MANIFESTS / "overlays" / o for o in ("kind", "gpu-cluster")}
RENDERER = shutil.which("kustomize") or shutil.which("kubectl")

Key = tuple[str, str | None, str]


def documents(text: str) -> list[dict]:
    return [document for document in yaml.safe_load_all(text) if document]


def by_key(objects: list[dict]) -> dict[Key, dict]:
    """The objects by kind, namespace and name."""
    found = {(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]): o for o in objects}
    assert len(found) == len(objects), "two objects of one name"
    return found


@cache
def rendered(overlay: str) -> dict[Key, dict]:
    command = [RENDERER, "build"] if Path(RENDERER).name == "kustomize" else [RENDERER, "kustomize"]
    return by_key(documents(subprocess.check_output([*command, OVERLAYS[overlay]], text=True)))


@cache
def from_files(overlay: str) -> dict[Key, dict]:
    """What kustomize makes of the files, without patches of single fields: those only change sizes and lists."""
    return by_key(_build(OVERLAYS[overlay]))


def _build(folder: Path) -> list[dict]:
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    objects = []
    for resource in plan["resources"]:
        path = folder / resource
        objects += _build(path) if path.is_dir() else documents(path.read_text())
    for generator in plan.get("configMapGenerator", []):
        _generate(objects, folder, generator)
    for container in (c for o in objects for c in containers(o)):
        for image in plan.get("images", []):
            if container["image"].split(":")[0] == image["name"]:
                container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
    for patch in plan.get("patches", []):
        if "$patch: delete" in patch.get("patch", ""):
            label, _, value = patch["target"]["labelSelector"].partition("=")
            objects = [o for o in objects if o["metadata"].get("labels", {}).get(label) != value]
    return objects


def _generate(objects: list[dict], folder: Path, generator: dict) -> None:
    data = {name: (folder / name).read_text() for name in generator.get("files", [])}
    for name in generator.get("envs", []):
        data |= dict(line.split("=", 1) for line in (folder / name).read_text().splitlines())
    metadata = {"name": generator["name"], "namespace": generator["namespace"]}
    if generator.get("behavior") == "merge":
        (there,) = (o for o in objects if o["kind"] == "ConfigMap" and o["metadata"] == metadata)
        there["data"] |= data
    else:
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def pod(workload: dict) -> dict | None:
    """The pod template of an object, or None."""
    return workload.get("spec", {}).get("template")


def containers(workload: dict) -> list[dict]:
    spec = (pod(workload) or {}).get("spec", {})
    return spec.get("initContainers", []) + spec.get("containers", [])
