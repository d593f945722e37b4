"""The Dockerfiles as text: what the pods' security context and the pins rely on. No Docker needed."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from components.core.code_closure import closure
from pipelines.predict.package import ENTRY

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "images"
NAMES = ("steps", "mlflow", "segment")
LABELS = ("source", "revision", "version", "licenses")


@pytest.fixture(params=NAMES)
def instructions(request) -> list[tuple[str, str]]:
    return _instructions(request.param)


def _instructions(name: str) -> list[tuple[str, str]]:
    """[("FROM", "${BASE} AS builder"), ...], continued lines joined, comments left out."""
    text = (IMAGES / f"{name}.Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def _final_stage(instructions: list[tuple[str, str]]) -> list[tuple[str, str]]:
    starts = [i for i, (word, _) in enumerate(instructions) if word == "FROM"]
    return instructions[starts[-1] :]


def _installs(instructions: list[tuple[str, str]]) -> list[str]:
    """The words after each `pip install`, up to the command's end."""
    commands = [c for word, rest in instructions if word == "RUN" for c in re.split(r"&&|;", rest)]
    return [c.split("pip install", 1)[1] for c in commands if "pip install" in c]


def _pins(path: Path) -> dict[str, str]:
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), f"unpinned in {path}"
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}


def test_the_images_of_the_steps_have_one_dockerfile():
    assert {path.stem for path in IMAGES.glob("*.Dockerfile")} == set(NAMES)


def test_the_base_is_a_build_argument_with_a_pinned_python(instructions):
    word, base = instructions[0]
    assert word == "ARG" and re.fullmatch(r"BASE=python:3\.11-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    assert {rest.split()[0] for word, rest in instructions if word == "FROM"} == {"${BASE}"}


def test_the_packages_are_installed_in_another_stage_than_the_last(instructions):
    last = _final_stage(instructions)
    assert _installs(instructions) and not _installs(last)
    assert ("COPY", "--from=builder /opt/venv /opt/venv") in last
    assert not any(re.search(r"install|gcc|make", rest) for word, rest in last if word == "RUN")


def test_nothing_in_it_lends_its_users_rights_to_another(instructions):
    (run,) = (rest for word, rest in _final_stage(instructions) if word == "RUN")
    assert "find / -xdev -type f -perm /6000 -delete" in run
    assert "rm -rf /usr/local/lib/python3.*/site-packages/pip* /usr/local/bin/pip*" in run


def test_the_server_has_no_shell_and_no_package_manager_and_the_steps_keep_the_shell_that_kfp_starts_them_with():
    runs = {name: next(r for w, r in _final_stage(_instructions(name)) if w == "RUN") for name in NAMES}
    assert runs["mlflow"].endswith("cd /usr/bin && rm -f apt* dpkg* perl* bash rbash dash sh")
    assert runs["segment"].endswith("cd /usr/bin && rm -f apt* dpkg* perl*"), "Apptainer starts it through a shell"
    assert "rm -f" not in runs["steps"]
    assert _final_stage(_instructions("mlflow"))[-1][0] == "EXPOSE", "no RUN after the shell is gone"
    compiled = yaml.safe_load_all((ROOT / "tests" / "golden" / "pipeline.yaml").read_text())
    steps = next(compiled)["deploymentSpec"]["executors"].values()
    assert {step["container"]["command"][0] for step in steps} == {"sh"}


def test_the_server_finds_its_login(tmp_path):
    last = dict(reversed(_final_stage(_instructions("mlflow"))))
    (copied,) = (rest for word, rest in _final_stage(_instructions("mlflow")) if word == "COPY" and "from" not in rest)
    source, place = copied.split()
    assert f"PYTHONPATH={place} " in last["ENV"]
    find = "entry_points(group='mlflow.app', name='dwi-stroke')"
    code = f"from importlib.metadata import entry_points; print(*(found.load() for found in {find}))"
    shutil.copytree(ROOT / source, tmp_path / "there")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "there")}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "create_app" in found.stdout, found.stderr


def test_nothing_that_starts_the_server_asks_for_a_shell():
    (deployment,) = (
        o for o in yaml.safe_load_all((ROOT / "manifests" / "base" / "mlflow.yaml").read_text())
        if o["kind"] == "Deployment"
    )  # fmt: skip
    pod = deployment["spec"]["template"]["spec"]
    commands = [c["command"][0] for c in (*pod["initContainers"], *pod["containers"])]
    assert commands == ["python3", "mlflow"]
    probes = [c[p] for c in pod["containers"] for p in c if p.endswith("Probe")]
    assert all("exec" not in probe for probe in probes)


def test_it_runs_as_a_numeric_user_that_is_not_root(instructions):
    assert [rest for word, rest in instructions if word == "USER"] == ["10001:10001"]
    assert not any(word in ("CMD", "VOLUME") for word, _ in instructions)


def test_all_that_it_writes_goes_to_tmp(instructions):
    environment = " ".join(rest for word, rest in _final_stage(instructions) if word == "ENV")
    for setting in ("HOME=/tmp", "TMPDIR=/tmp", "MPLCONFIGDIR=/tmp/matplotlib", "PYTHONDONTWRITEBYTECODE=1"):
        assert setting in environment.split()


def test_it_reads_and_writes_utf8_in_any_locale(instructions):
    environment = " ".join(rest for word, rest in _final_stage(instructions) if word == "ENV")
    assert "PYTHONUTF8=1" in environment.split()


def test_every_installed_package_is_pinned(instructions):
    for command in _installs(instructions):
        if "--requirement" in command:
            assert command.split()[-1] in ("/tmp/requirements.lock", "/tmp/setuptools.lock")
            assert "--no-deps" in command and "--require-hashes" in command
        else:
            *_, torch = re.sub(r"\$\([^)]*\)", "PINNED", command).split()
            assert torch == '"PINNED"' and "--constraint requirements-torch.txt" in command


def test_labels_and_environment_name_the_revision(instructions):
    last = _final_stage(instructions)
    labels = " ".join(rest for word, rest in last if word == "LABEL")
    for label in LABELS:
        assert re.search(rf'org\.opencontainers\.image\.{label}="[^"]+"', labels), label
    assert 'revision="$REVISION"' in labels and 'version="$VERSION"' in labels


@pytest.mark.parametrize("name", ["steps", "mlflow"])
def test_what_records_its_commit_knows_it(name):
    assert ("ENV", "GIT_COMMIT=$REVISION") in _final_stage(_instructions(name))


def test_the_image_of_a_version_starts_its_program_and_no_other_does():
    for name in NAMES:
        started = [rest for word, rest in _instructions(name) if word == "ENTRYPOINT"]
        expected = [["python3", "-P", "-m", ENTRY.removesuffix(".py").replace("/", ".")]] if name == "segment" else []
        assert [json.loads(rest) for rest in started] == expected, name


def test_the_image_of_a_version_has_what_its_program_imports_and_nothing_else():
    """The program's own imports, and what these packages need on Linux."""
    assert {f"pipelines/dicom/{name}.py" for name in ("answer", "convert", "studies")} <= set(closure(ENTRY))
    modules = [ROOT / path for path in closure(ENTRY) if path.endswith(".py")]
    imported = {name for module in modules for name in _imported(module.read_text())}
    provided = packages_distributions()
    wanted, needed = {provided[name][0] for name in imported - {"components", "pipelines"}}, set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name not in needed:
            needed.add(name)
            lines = [Requirement(line) for line in requires(name) or []]
            wanted |= {r.name for r in lines if r.marker is None or r.marker.evaluate({"extra": ""})}
    pins = _pins(IMAGES / "requirements-segment.txt")
    assert set(pins) | {"torch", "pyjpegls"} == needed  # highdicom names pyjpegls and never imports it
    assert not needed & {"mlflow", "kfp", "pandas", "boto3", "kubernetes"}
    for other in (ROOT / "requirements.txt", IMAGES / "requirements-torch.txt"):
        assert {n: v for n, v in _pins(other).items() if n in pins}.items() <= pins.items()


def _imported(source: str) -> set[str]:
    """The packages outside Python's own that a module imports, also in functions."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def test_a_change_of_the_steps_leaves_the_dependency_layers_alone():
    last = _final_stage(_instructions("steps"))
    order = [rest for word, rest in last if word == "COPY"]
    assert order == ["--from=builder /opt/venv /opt/venv", "--from=code /app /app"]
    assert "PYTHONPATH=/app" in " ".join(rest for word, rest in last if word == "ENV").split()


def test_trainer_and_components_from_the_same_wheels_share_every_layer():
    """What comes after the argument that tells them apart makes no layer."""
    last = _final_stage(_instructions("steps"))
    after = last[last.index(("ARG", "IMAGE=components")) :]
    assert {word for word, _ in after} <= {"ARG", "ENV", "LABEL", "USER"}
    assert not any("$IMAGE" in rest for word, rest in after if word != "LABEL")


def test_the_mlflow_server_has_the_versions_of_the_clients():
    server, clients = _pins(IMAGES / "requirements-mlflow.txt"), _pins(ROOT / "requirements.txt")
    assert {n: v for n, v in server.items() if n in clients} == {n: clients[n] for n in server if n in clients}
    assert set(server) - set(clients) == {"psycopg2-binary"}
    assert {"mlflow", "boto3", "alembic", "sqlalchemy", "uvicorn"} <= set(server)


def test_what_torch_brings_is_pinned_once():
    cuda = _pins(IMAGES / "requirements-torch.txt")
    assert not set(cuda) & set(_pins(ROOT / "requirements.txt"))
    assert {"setuptools", "triton", "cuda-bindings", "nvidia-nvjitlink"} <= set(cuda)


def test_the_build_context_is_a_list_of_what_may_enter():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert allowed == {
        "requirements.txt", "requirements.lock", "images/requirements-*.txt", "images/requirements-*.lock",
        "components", "images/mlflow", ".local/staged-wheels", ".local/staged-package",
    }  # fmt: skip


REMOVED = {
    "site-packages/torch/include", "site-packages/torch/test", "site-packages/pandas/tests",
    "site-packages/scipy/linalg/tests", "site-packages/sklearn/tests", "site-packages/sympy/core/tests",
    "usr/local/lib/python3.11/site-packages/pip", "usr/local/bin/pip3",
}  # fmt: skip
KEPT = {"site-packages/torch/nn", "site-packages/torchgen/tests", "site-packages/numpy/tests", "usr/bin/python3"}
SHELLS = {"usr/bin/bash", "usr/bin/dash", "usr/bin/sh"}
SERVERS = {"usr/bin/apt-get", "usr/bin/dpkg", "usr/bin/perl", *SHELLS}


def _removals(name: str, root: Path) -> list[str]:
    """Each RUN of the image as a shell line, of its commands those that remove, moved from / to below `root`."""
    lines = []
    for word, rest in _instructions(name):
        commands = [command.strip() for command in rest.split("&&")] if word == "RUN" else []
        if removing := [c for c in commands if re.match(r"(cd|rm|find)\b", c) and "/wheels" not in c]:
            lines.append(" && ".join(removing))
    site_packages = f"{root}/site-packages"
    moved = (line.replace("/opt/venv/lib/python3.11/site-packages", site_packages) for line in lines)
    return [re.sub(r"(?<![\w/.*])/(?=usr/| )", f"{root}/", line) for line in moved]


@pytest.mark.parametrize("lacking", [None, "everything", *sorted(REMOVED | SERVERS)])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_removed_need_not_be_there(tmp_path, name, lacking):
    """PyPI's torch has no folder of tests, its CPU build has; another base has other programs."""
    for folder in ("site-packages", "usr/local/bin", "usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for path in (REMOVED | KEPT | SERVERS) - {lacking} if lacking != "everything" else ():
        (tmp_path / path).mkdir(parents=True) if "site-packages" in path else (tmp_path / path).touch()
    removals = _removals(name, tmp_path)
    assert removals and all(str(tmp_path) in line for line in removals)
    for line in removals:
        done = subprocess.run(["sh", "-ec", line], capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    gone = {
        "steps": REMOVED,
        "mlflow": {path for path in REMOVED if "usr" in path} | SERVERS,
        "segment": {path for path in REMOVED if not re.search("pandas|sklearn", path)} | SERVERS - SHELLS,
    }[name]
    assert not [path for path in gone if (tmp_path / path).exists()]
    assert name != "segment" or lacking or all((tmp_path / path).exists() for path in SHELLS)
    assert lacking == "everything" or all((tmp_path / path).exists() for path in KEPT)
