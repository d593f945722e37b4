"""The virtual environment that make makes or mends, with Pythons of every kind on the PATH."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
VERSION = ".".join(map(str, sys.version_info[:2]))
REAL = f'exec "{sys.executable}" "$@"'
OLD = "echo 3.9.2; exit 3"
WITHOUT_PIP = f'case $2 in ensurepip | pip) echo "No module named $2" >&2; exit 1;; esac; {REAL}'
WITHOUT_ENSUREPIP = f"""case "$2" in
venv) for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
ensurepip | pip) echo "No module named $2" >&2; exit 1 ;;
*) {REAL} ;;
esac"""


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def make_venv(folder: Path, base: str = "", **pythons: str) -> subprocess.CompletedProcess:
    """Run it in `folder`, with these Pythons alone on the PATH; "_" in a name stands for a dot."""
    for name, body in pythons.items():
        script(folder / "on path" / name.replace("_", "."), body)
    for tool in ("awk", "mkdir", "cp"):
        (folder / "on path" / tool).unlink(missing_ok=True)
        (folder / "on path" / tool).symlink_to(shutil.which(tool))
    environment = os.environ | {"PATH": str(folder / "on path"), "BASE_PYTHON": base}
    command = ["/bin/sh", str(ROOT / "pipelines/local/make-venv"), ".venv"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def has_pip(folder: Path) -> bool:
    return not subprocess.run([folder / ".venv/bin/python", "-m", "pip", "--version"], capture_output=True).returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my folder" / "on path").mkdir(parents=True)
    return tmp_path / "my folder"


@pytest.mark.slow
def test_one_without_pip_gets_it_and_keeps_the_rest(folder):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (folder / ".venv/kept").touch()
    made = make_venv(folder)
    assert (made.returncode, made.stderr) == (0, "")
    assert has_pip(folder)
    assert (folder / ".venv/kept").exists()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("left", ["nothing", "a link to a Python that is gone", "an empty folder"])
def test_the_first_python_that_fits_makes_it(left, folder):
    if left != "nothing":
        (folder / ".venv/bin").mkdir(parents=True)
    if "link" in left:
        (folder / ".venv/bin/python").symlink_to(folder / "gone")
    made = make_venv(folder, python3=OLD, python3_12=REAL)
    assert (made.returncode, made.stderr) == (0, "")
    assert has_pip(folder)


def test_a_sound_one_is_left_alone(folder):
    script(folder / ".venv/bin/python", f'case "$2" in venv | ensurepip) exit 9;; pip) exit 0;; esac; {REAL}')
    assert make_venv(folder).returncode == 0


@pytest.mark.slow
def test_debian_without_python3_venv_is_told_which_package_and_goes_on_from_there(folder):
    for _ in range(2):
        made = make_venv(folder, python3=WITHOUT_ENSUREPIP)
        assert made.returncode == 1
        assert f"sudo apt install python{VERSION}-venv" in made.stderr
        assert "No module named ensurepip" in made.stderr
    script(folder / ".venv/bin/python", WITHOUT_PIP)
    assert make_venv(folder, python3=REAL).returncode == 0
    assert has_pip(folder)


def test_where_no_python_fits_those_there_are_listed_and_how_to_get_one(folder):
    made = make_venv(folder, python3=OLD, python3_10="echo 3.10.13; exit 3", python3_15="echo 3.15.0; exit 3")
    assert made.returncode == 1
    assert made.stderr.startswith("Python 3.11 to 3.14 (CPython, 64 bit) is needed, and none is on the PATH. On the")
    for version, name in (("3.9.2", "python3"), ("3.10.13", "python3.10"), ("3.15.0", "python3.15")):
        assert f"  {version}  {folder}/on path/{name}\n" in made.stderr
    assert "make install BASE_PYTHON=" in made.stderr
    assert not (folder / ".venv").exists()


def test_where_there_is_no_python_at_all_nothing_is_listed(folder):
    said = make_venv(folder).stderr
    assert "none is on the PATH. Get one: sudo apt install" in said


@pytest.mark.parametrize(
    ("base", "said"),
    [("python3.9", "BASE_PYTHON=python3.9 is Python 3.9.2, and Python 3.11 to 3.14"), ("gone", "no Python that runs")],
)
def test_a_named_python_that_does_not_fit_is_refused_though_another_would(base, said, folder):
    made = make_venv(folder, base=base, python3_9=OLD, python3=REAL)
    assert made.returncode == 1
    assert said in made.stderr
    assert f"{folder}/on path/python3\n" in made.stderr


@pytest.mark.slow
def test_a_named_python_makes_it(folder):
    made = make_venv(folder, base=sys.executable, python3=OLD)
    assert (made.returncode, made.stderr) == (0, "")
    assert has_pip(folder)


def test_one_of_an_unfit_python_is_named_and_not_removed(folder):
    script(folder / ".venv/bin/python", "echo 3.10.13; exit 3")
    made = make_venv(folder, python3=REAL)
    assert made.returncode == 1
    assert ".venv holds Python 3.10.13" in made.stderr
    assert "rm -rf .venv" in made.stderr
    assert (folder / ".venv/bin/python").exists()
