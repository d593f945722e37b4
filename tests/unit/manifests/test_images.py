"""The images that come from elsewhere: all of them are listed, and each can be replaced by a mirror's."""

import re
import subprocess

import pytest
import yaml

from tests.unit.manifests.overlays import MANIFESTS, RENDERER, documents

ROOT = MANIFESTS.parent
LIST = MANIFESTS / "images.txt"


def listed() -> set[str]:
    return {line for line in LIST.read_text().splitlines() if line and not line.startswith("#")}


def used() -> set[str]:
    """All that follows `image:` in a manifest, however deep, and every Dockerfile's base."""
    files = [path.read_text() for path in MANIFESTS.rglob("*.yaml")]
    found = {name for text in files for name in re.findall(r"^[-\s]*image:\s*(\S+)", text, re.MULTILINE)}
    for dockerfile in (ROOT / "images").glob("*.Dockerfile"):
        found |= set(re.findall(r"^ARG BASE=(\S+)", dockerfile.read_text(), re.MULTILINE))
    return {name for name in found if not name.startswith("dwi-stroke/")}


def test_every_image_from_elsewhere_is_listed_and_no_other():
    assert used() == listed() and len(listed()) >= 3


def test_an_image_that_is_pinned_by_digest_has_a_way_to_another_in_the_readme():
    text = (MANIFESTS / "README.md").read_text().split("## Images")[1].split("\n## ")[0]
    for image in listed():
        assert f"`{image.partition(':')[0]}`" in text, image


@pytest.mark.skipif(not RENDERER, reason="needs kubectl or kustomize on the PATH")
def test_the_readmes_kustomization_names_the_mirrors_images_by_tag_alone():
    text = (MANIFESTS / "README.md").read_text()
    (block,) = (b for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "postgres" in b)
    plan = yaml.safe_load(block)
    folder = ROOT / ".local" / "test-images"
    folder.mkdir(parents=True, exist_ok=True)
    plan["resources"] = ["../../manifests/overlays/kind"]
    try:
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(plan))
        command = [RENDERER, "build"] if RENDERER.endswith("kustomize") else [RENDERER, "kustomize"]
        rendered = subprocess.check_output([*command, str(folder)], text=True)
    finally:
        (folder / "kustomization.yaml").unlink()
        folder.rmdir()
    images = set(re.findall(r"image: (\S+)", rendered))
    assert images == {
        "registry.example.org/postgres:17.11-bookworm",
        "registry.example.org/stroke/mlflow:TAG",
        "registry.example.org/stroke/components:TAG",
    }
    assert documents(rendered)
