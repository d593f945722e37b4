"""What a landing runs, and which tests the two test commands choose."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ELSEWHERE = "not cluster and not torture and not relations"
INSTALLED = ("--old-file=.venv/.installed", "--old-file=.venv/.installed-dev")


def chosen(target: str) -> list[str]:
    """The markers that each pytest of `make TARGET` chooses by."""
    command = ["make", "--silent", *INSTALLED, target, "PYTHON=printf '%s\\n'"]
    _, *calls = subprocess.check_output(command, cwd=ROOT, text=True).split("-m\npytest\n")
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    usual = re.search(r"-m '(.*)'", options)
    return [(re.search(r"^-m\n(.*)$", call, re.MULTILINE) or usual)[1] for call in calls]


@pytest.mark.parametrize(("target", "halves"), [("test", ["not slow"]), ("test-all", ["not slow", "slow"])])
def test_the_two_commands_choose_each_test_once(target, halves):
    assert chosen(target) == [f"{half} and {ELSEWHERE}" for half in halves]


def test_a_landing_runs_everything():
    commands = re.findall(
        r"^(?:\w+=\S+ )?(make [a-z -]+[a-z]|\.ci/containers)", (ROOT / ".ci" / "run").read_text(), re.M
    )
    assert commands == [
        "make lint", "make typecheck", "make audit", "make pipeline-run", "make down", "make test test-all",
        ".ci/containers",
    ]  # fmt: skip
