"""make as a person calls it: what they type arrives as they typed it. Programs that write down their call stand in."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TYPED = (
    "-scans$5 $$ $(shell touch PWNED) ${shell touch PWNED} $(DATA) `touch PWNED` ; touch PWNED & "
    "#1 \"two\" 'three' \\ %s * ? [a] ~ é {{$.x}} = := \\$HOME\nnext line: @touch PWNED\\ "
)
"""Each character that means something to make or to a shell; first a dash, last a space."""
VARIABLES = sorted({*re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.M), "S3_PORT", "GPUS", "NODE_SELECTOR", "KUBE_CONTEXT"})
RECIPES = dict(re.findall(r"^([a-z][a-z-]*):[^\n]*##[^\n]*\n((?:\t[^\n]*\n)*)", MAKEFILE, re.M))
RECORDER = """#!{python} -IS
import json, os, sys
with open("calls", "a") as calls:
    calls.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    for name in (".venv/bin/python", "images/build", "images/pin-bases", ".ci/lock", "pipelines/local/make-venv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(RECORDER.format(python=sys.executable))
        (folder / name).chmod(0o755)
    for name in (
        "Makefile",
        "requirements.txt",
        "requirements.lock",
        "requirements-dev.txt",
        "requirements-dev.lock",
        "images/requirements-torch.txt",
    ):
        shutil.copy(ROOT / name, folder / name)
    for name in (".venv/.installed", ".venv/.installed-dev"):
        (folder / name).touch()
    return folder


def make(checkout: Path, target: str, *arguments: str, **variables: str) -> list[tuple[list[str], dict[str, str]]]:
    """The arguments and the environment of each program that `make TARGET ARGUMENTS` called."""
    kept = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "MAKEFLAGS", "MAKELEVEL")}
    command = ["make", "--silent", target, *arguments]
    subprocess.run(command, cwd=checkout, env=kept | variables, check=True, stdin=subprocess.DEVNULL, timeout=60)
    calls = checkout / "calls"
    return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


@pytest.mark.sampled(3)
@pytest.mark.parametrize("place", ["command line", "environment"])
@pytest.mark.parametrize("target", RECIPES)
def test_what_is_typed_arrives_as_it_was_typed(target, place, checkout):
    typed = dict.fromkeys(VARIABLES, TYPED)
    words = [f"{name}={value}" for name, value in typed.items()]
    calls = make(checkout, target, *words) if place == "command line" else make(checkout, target, **typed)
    assert not list(checkout.rglob("PWNED")), "make ran what was typed"
    for _, environment in calls:
        assert {name: environment.get(name) for name in VARIABLES} == typed
    given = [argument for arguments, _ in calls for argument in arguments]
    wanted = re.findall(r'(--[a-z]+=)"\$\$([A-Z_]+)"', RECIPES[target])
    assert {option + TYPED for option, _ in wanted} <= set(given)
    assert calls or target in ("help", "install")


def test_each_option_is_joined_to_its_value():
    """So that a reason which begins with a dash is no option."""
    assert not re.findall(r'--[a-z]+ "\$\$[A-Z]', MAKEFILE)


def test_every_variable_is_tried_where_it_is_used():
    used = set(re.findall(r"\$\$([A-Z_]+)", MAKEFILE))
    assert used <= set(VARIABLES)
    assert "BASE_PYTHON" in VARIABLES


@pytest.mark.slow
def test_the_real_command_takes_a_value_that_begins_with_a_dash(checkout):
    """argparse itself, behind the words that make hands over."""
    (checkout / ".venv/bin/python").write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" "$@"\n')
    (checkout / ".venv/bin/python").chmod(0o755)
    said = subprocess.run(
        ["make", "--silent", "check-data", "DATA=-no such $5"],
        cwd=checkout, capture_output=True, text=True, env=os.environ | {"STATE": str(checkout / "state")},
    )  # fmt: skip
    assert "-no such $5" in said.stderr, said.stderr
    assert "usage:" not in said.stderr
