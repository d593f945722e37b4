"""images/pin-bases with a stand-in for docker, which a registry answers or does not."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[3] / "images"
FIRST, SECOND = ("sha256:" + letter * 64 for letter in "ab")
BUILDX = '[ "$1 $2 $3 $4" = "buildx imagetools inspect python:3.11-slim-bookworm" ] && echo {digest}'
PULLS = """case "$1" in
pull) ;;
image) echo mirror.example/python@{digest}; echo other@sha256:0 ;;
*) echo "docker: 'buildx' is not a docker command" >&2; exit 1 ;;
esac"""
REFUSED = "echo 'dial tcp: no route to host' >&2; exit 1"


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in (IMAGES / "pin-bases", *IMAGES.glob("*.Dockerfile")):
        shutil.copy(path, folder)
    (tmp_path / "manifests").mkdir()
    shutil.copy(IMAGES.parent / "manifests" / "images.txt", tmp_path / "manifests")
    return folder


def pin(images: Path, docker: str) -> tuple[int, str]:
    tools = images.parent / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "docker").write_text(f"#!/bin/sh\n{docker}\n")
    (tools / "docker").chmod(0o755)
    shell = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run([images / "pin-bases"], env=shell, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def bases(images: Path) -> set[str]:
    return {path.read_text().split("ARG BASE=")[1].split("\n")[0] for path in images.glob("*.Dockerfile")}


@pytest.mark.parametrize("docker", [BUILDX, PULLS], ids=["buildx", "pull"])
def test_each_base_gets_the_digest_of_its_tag_and_later_the_newer_one(images, docker):
    listed = (images.parent / "manifests" / "images.txt").read_text()
    others = {path.name: path.read_text().partition("\nFROM")[2] for path in images.glob("*.Dockerfile")}
    for digest in (FIRST, SECOND):
        assert pin(images, docker.format(digest=digest)) == (0, f"python:3.11-slim-bookworm@{digest}\n")
        pinned = f"python:3.11-slim-bookworm@{digest}"
        assert bases(images) == {pinned}
        now = (images.parent / "manifests" / "images.txt").read_text()
        assert now == listed.replace("\npython:3.11-slim-bookworm\n", f"\n{pinned}\n") != listed
    assert {path.name: path.read_text().partition("\nFROM")[2] for path in images.glob("*.Dockerfile")} == others
    assert {path.suffix for path in images.iterdir()} == {"", ".Dockerfile"}


@pytest.mark.parametrize("docker", [REFUSED, "echo sha256:short", "true"])
def test_without_a_registry_it_says_so_and_changes_nothing(images, docker):
    before = {path: path.read_bytes() for path in images.iterdir()}
    status, said = pin(images, docker)
    assert status == 1 and "The registry of python:3.11-slim-bookworm does not answer" in said
    assert docker != REFUSED or "no route to host" in said
    assert {path: path.read_bytes() for path in images.iterdir()} == before
