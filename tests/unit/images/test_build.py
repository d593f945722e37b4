"""images/build with a stand-in for the docker command: what it asks of Docker, and what it tells a person."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.environment import rule

ROOT = Path(__file__).parents[3]
DIGEST = "sha256:" + "a" * 64
DOCKER = """#!/bin/sh
case "$1 $2" in
"info "*) {info} ;;
"build "*) ls .local/staged-wheels >> "$LOG" 2>/dev/null; echo "$@" >> "$LOG" ;;
"push "*) echo "$@" >> "$LOG" ;;
"image inspect") case "$*" in *Size*) echo 1500000000 ;; *RepoDigests*) echo "${{5%:*}}@{digest}" ;; esac ;;
esac
"""


@pytest.fixture
def build(tmp_path):
    """Run a copy of the script with a stand-in docker: (exit status, what it said, what docker was asked)."""
    (tmp_path / "repo/images").mkdir(parents=True)
    shutil.copy(ROOT / "images/build", tmp_path / "repo/images/build")
    log = tmp_path / "log"

    def run(*arguments, info="true", docker=True, **environment):
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        for tool in ("bash", "dirname", "rm", "mkdir", "cp", "ls", "awk", "sed", "git", "sh", "touch", "mv"):
            if not (tools / tool).exists():
                (tools / tool).symlink_to(shutil.which(tool))
        if docker:
            (tools / "docker").write_text(DOCKER.format(info=info, digest=DIGEST))
            (tools / "docker").chmod(0o755)
        done = subprocess.run(
            [tmp_path / "repo/images/build", *arguments],
            env={"PATH": str(tools), "LOG": str(log), "HOME": os.environ.get("HOME", "/")} | environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, done.stdout + done.stderr, log.read_text() if log.exists() else ""

    run.repo = tmp_path / "repo"
    return run


def test_builds_the_three_and_prints_their_sizes(build):
    status, said, asked = build("abc")
    assert status == 0, said
    assert [line.split("--tag ")[1].split()[0] for line in asked.splitlines()] == [
        "dwi-stroke/components:abc",
        "dwi-stroke/trainer:abc",
        "dwi-stroke/mlflow:abc",
    ]
    assert said.count("1500 MB") == 3
    components, trainer, mlflow = asked.splitlines()
    for line, name in ((components, "components"), (trainer, "trainer")):
        assert "--file images/steps.Dockerfile " in line and f"--build-arg IMAGE={name} " in line
    assert "--file images/mlflow.Dockerfile " in mlflow and "IMAGE=" not in mlflow


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["components: 6.2 GB", "TORCH_INDEX", "WHEELS", "trainer: 6.2 GB", "IMAGES=", "mlflow: "]),
        ({"TORCH_INDEX": "index", "IMAGES": "components"}, ["components: about 2 GB"]),
        ({"IMAGES": "mlflow"}, ["mlflow: about 1 GB"]),
    ],
)
def test_says_how_large_the_images_become_and_what_to_set_before_it_builds(build, settings, expected):
    status, said, _ = build("abc", **settings)
    before, *_ = said.partition("building ")
    assert status == 0 and all(word in before for word in expected), said
    assert ("6.2 GB" in before) == (not settings)


def test_passes_the_settings_on(build, tmp_path):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/torch-1-any.whl").touch()
    settings = {"BASE": "b:1", "TORCH_INDEX": "index", "WHEELS": str(tmp_path / "wheels"), "BUILD_OPTIONS": "--pull"}
    status, said, asked = build("abc", "registry.example/team/", **settings)
    assert status == 0, said
    wheel, components, trainer, mlflow = asked.splitlines()
    assert wheel == "torch-1-any.whl" and "TORCH_INDEX=index" in components
    assert "TORCH_INDEX" not in trainer + mlflow
    assert all("BASE=b:1" in line and "build --pull" in line for line in (components, trainer, mlflow))
    assert "--tag registry.example/team/components:abc" in components
    assert not (build.repo / ".local/staged-wheels").exists()


@pytest.mark.parametrize("variable", ["WHEELS", "TRAINER_WHEELS"])
@pytest.mark.parametrize("folder", [".local/wheels", ".local", "wheels", "{repo}/.local/wheels"])
def test_wheels_that_a_person_named_stay(build, variable, folder):
    folder = folder.format(repo=build.repo)
    wheel = build.repo / folder / "torch-1-any.whl"
    wheel.parent.mkdir(parents=True, exist_ok=True)
    wheel.write_text("theirs")
    status, said, asked = build("abc", **{variable: folder})
    assert status == 0 and asked.startswith("torch-1-any.whl" if variable == "WHEELS" else "build"), said
    assert wheel.read_text() == "theirs" and not (build.repo / ".local/staged-wheels").exists()


@pytest.mark.parametrize(
    "folder", [".local/staged-wheels", ".local/staged-wheels/below", "images/../.local/staged-wheels", "link"]
)
def test_wheels_in_the_folder_of_copies_are_refused_and_stay(build, folder):
    wheel = build.repo / ".local/staged-wheels/torch-1-any.whl"
    (wheel.parent / "below").mkdir(parents=True)
    (build.repo / "link").symlink_to(wheel.parent)
    wheel.write_text("theirs")
    status, said, asked = build("abc", WHEELS=folder)
    assert status == 1 and f"WHEELS is {folder}: images/build keeps copies" in said and not asked
    assert wheel.read_text() == "theirs"


def test_pushes_and_writes_the_digests(build):
    status, said, asked = build("--push", "abc", "registry.example:5000/team")
    assert status == 0, said
    assert asked.splitlines()[0] == "push registry.example:5000/team/components:abc"
    assert said.count(DIGEST) == 3
    assert digests(build) == {
        f"registry.example:5000/team/{name}:abc": DIGEST for name in ("components", "trainer", "mlflow")
    }


def test_keeps_the_digests_of_other_registries_and_tags(build):
    known = {"registry.example/team/components:abc": "sha256:old", "elsewhere.example/components:abc": "sha256:kept"}
    (build.repo / ".local").mkdir()
    (build.repo / ".local/images.json").write_text(json.dumps(known, indent=1))
    assert build("--push", "abc", "registry.example/team", IMAGES="components")[0] == 0
    assert digests(build) == known | {"registry.example/team/components:abc": DIGEST}
    assert build("--push", "def", "registry.example/team", IMAGES="mlflow")[0] == 0
    assert digests(build).keys() == known.keys() | {"registry.example/team/mlflow:def"}


def digests(build) -> dict[str, str]:
    return json.loads((build.repo / ".local/images.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ((), {}, "usage: images/build"),
        (("--push", "abc"), {}, "REGISTRY="),
        (("abc",), {"docker": False}, "not installed"),
        (("abc",), {"info": "echo 'Cannot connect to the Docker daemon' >&2; exit 1"}, "does not answer"),
        (("abc",), {"WHEELS": "/nowhere"}, "no .whl file in /nowhere"),
    ],
)
def test_says_what_is_missing(build, arguments, options, expected):
    status, said, asked = build(*arguments, **options)
    assert status == 1 and expected in said and not asked


def test_git_is_asked_about_this_checkout():
    script = (ROOT / "images/build").read_text().replace("\\\n", " ")
    (names,) = [line.split()[1:] for line in script.splitlines() if line.startswith("unset ")]
    assert names == rule("GIT_DIR").names.split()


def test_a_checkout_of_another_user_is_named(build):
    subprocess.run(["git", "init", "--quiet"], cwd=build.repo, check=True)
    status, said, asked = build("abc", IMAGES="mlflow", GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert status == 0 and "REVISION=unknown" in asked
    assert f"git config --global --add safe.directory '{build.repo}'" in said


def test_the_image_of_a_version_has_its_own_dockerfile_and_the_wheels_of_a_cpu(build, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "torch-2+cpu.whl").touch()
    status, said, asked = build("--segment", "3", "registry.example/team/", WHEELS=str(wheels), TORCH_INDEX="index")
    assert status == 0, said
    staged, line = asked.splitlines()
    assert staged == "torch-2+cpu.whl"
    assert "--file images/segment.Dockerfile --tag registry.example/team/segment:3 " in line
    assert "--build-arg TORCH_INDEX=index" in line and "--build-arg VERSION=3" in line and "IMAGE=" not in line
    assert "TORCH_INDEX" not in said and "segment: about 1" in said


def test_the_image_of_a_version_says_that_cuda_would_make_it_large(build):
    status, said, _ = build("--segment", "3")
    before, *_ = said.partition("building ")
    assert status == 0 and all(word in before for word in ("segment: about", "CUDA", "TORCH_INDEX", "WHEELS"))
    assert "components" not in said


@pytest.mark.parametrize(("arguments", "ending"), [(["abc"], ""), (["--segment", "3"], "-dirty")])
def test_new_files_of_pipelines_mark_the_image_that_holds_pipelines(build, arguments, ending):
    somebody = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*somebody, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *command], cwd=build.repo, check=True)
    (build.repo / "pipelines").mkdir()
    (build.repo / "pipelines" / "new.py").touch()
    status, _, asked = build(*arguments)
    assert status == 0 and all(re.search(rf"REVISION=[0-9a-f]{{40}}{ending} ", line) for line in asked.splitlines())
