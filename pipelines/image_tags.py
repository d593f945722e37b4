"""Which code does a step depend on? Its image tag says so, so that a cache never outlives the code."""

import ast
import hashlib
import logging
import os
import subprocess
from functools import cache
from pathlib import Path

from pipelines.environment import counts

ROOT = Path(__file__).parents[1]
PINS = ROOT / "requirements.txt"


def image(step: str) -> str:
    """The step's image; its tag is the digest of the modules that the step imports, of its own YAML and of the pins.

    A changed line reruns the steps that import its module, and no other.
    """
    h, folder = hashlib.sha256(PINS.read_bytes()), ROOT / "components" / step
    for path in sorted(_reached(folder / "component.py").union(folder.glob("*.yaml"))):
        h.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return f"dwi-stroke-python-{step}:{h.hexdigest()[:16]}"


def commit() -> str:
    """This checkout's commit, with "-dirty" where files differ from it or code is not in it; "" without git."""
    try:
        described = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        new = "" if described.endswith("-dirty") else _git("status", "--porcelain", "--", "components", PINS.name)
    except OSError:
        return ""
    except subprocess.CalledProcessError as error:
        if "dubious ownership" in error.stderr:
            logging.warning(
                "git does not read this checkout, because it belongs to another user: models are registered without "
                "their commit. To have it read: git config --global --add safe.directory '%s'", ROOT,
            )  # fmt: skip
        return ""
    return described + "-dirty" * bool(new)


def _git(*command: str) -> str:
    """What git says of this checkout, in English, whichever repository the shell's variables name."""
    variables = {name: value for name, value in os.environ.items() if counts(name, os.environ)} | {"LC_ALL": "C"}
    done = subprocess.run(["git", *command], cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def code() -> str:
    """The digest of all steps' code: as long as it stays, so does what a run comes to."""
    steps = sorted(path.parent.name for path in (ROOT / "components").glob("*/component.py"))
    return hashlib.sha256("".join(map(image, steps)).encode()).hexdigest()[:16]


def _reached(start: Path) -> set[Path]:
    """Return `start` and all modules of ours that it imports, directly or not."""
    todo, seen = [start], set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imports(path)
    return seen


@cache
def _imports(path: Path) -> list[Path]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for name in names:
            module = ROOT / Path(*name.split(".")).with_suffix(".py")
            if name.startswith("components.") and module.exists():
                found.append(module)
    return found
