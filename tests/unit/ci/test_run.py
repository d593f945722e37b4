"""What a landing runs, and which tests the two test commands choose."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MARKERS = ("slow", "cluster", "torture", "relations")
INSTALLED = ("--old-file=.venv/.installed", "--old-file=.venv/.installed-dev")


def chosen(target: str) -> str:
    """The markers that `make TARGET` chooses by."""
    command = ["make", "--silent", *INSTALLED, target, "PYTHON=printf '%s\\n'"]
    words = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    given = [word for at, word in enumerate(words) if at > 1 and words[at - 1] == "-m"]
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    return given[0] if given else re.search(r"-m '(.*)'", options)[1]


@pytest.mark.parametrize(("target", "left_out"), [("test", MARKERS), ("test-all", MARKERS[1:])])
def test_a_test_command_leaves_out_what_it_says(target, left_out):
    assert chosen(target) == " and ".join(f"not {marker}" for marker in left_out)


def test_a_landing_runs_everything():
    commands = re.findall(r"^(?:make [a-z-]+|\.ci/containers)", (ROOT / ".ci" / "run").read_text(), re.M)
    assert commands == [
        "make lint", "make typecheck", "make audit", "make pipeline-run", "make down", "make test", "make test-all",
        ".ci/containers",
    ]  # fmt: skip
