"""Each overlay twice: as the files say it, and as kubectl renders it where there is one."""

import pytest
import yaml

from tests.unit.manifests import overlays


def _params(names):
    return [pytest.param((o, how), id=f"{o}-{how}") for o in names for how in ("files", "rendered")]


def _objects(overlay: str, how: str):
    if how == "files":
        return overlays.from_files(overlay)
    if not overlays.RENDERER:
        pytest.skip("needs kubectl or kustomize on the PATH")
    return overlays.rendered(overlay)


@pytest.fixture(scope="session", params=_params(["kind", "gpu-cluster"]))
def objects(request):
    """The objects of an overlay by (kind, namespace, name)."""
    return _objects(*request.param)


@pytest.fixture(scope="session", params=_params(["kind"]))
def kind(request):
    return _objects(*request.param)


@pytest.fixture(scope="session", params=_params(["gpu-cluster"]))
def gpu_cluster(request):
    return _objects(*request.param)


@pytest.fixture(scope="session", params=["base", "kind", "gpu-cluster"])
def both(request):
    """One overlay as the files say it and as it is rendered."""
    return overlays.from_files(request.param), _objects(request.param, "rendered")


@pytest.fixture(scope="session")
def cluster():
    """The kind cluster's own file."""
    return yaml.safe_load((overlays.MANIFESTS / "kind" / "cluster.yaml").read_text())


@pytest.fixture(scope="session")
def secrets():
    """The keys of each Secret, by its name, from the committed shapes."""
    shapes = overlays.documents((overlays.MANIFESTS / "base" / "secrets.example.yaml").read_text())
    return {shape["metadata"]["name"]: shape["stringData"].keys() for shape in shapes}
