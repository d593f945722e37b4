"""Image tags: digests of the code that a step runs, so that no cached result outlives a change of that code."""

import logging
import os
import subprocess
from pathlib import Path

from components.core.code_closure import closure, files_digest, step_entry
from pipelines.environment import counts

ROOT = Path(__file__).parents[1]
PINS = "requirements.txt"
TAG_LENGTH = 16


def image(step: str) -> str:
    """Return the image of a step as a local run names it; its tag is the digest of what the step runs.

    A changed line reruns the steps that import its module, and no other.
    """
    return f"dwi-stroke-python-{step}:{_tag(_step_files(step))}"


def code() -> str:
    """Return the digest of the code of all steps: while it is the same, a run gives the same result."""
    return _tag(_all_steps_files())


def sources_tag() -> str:
    """Return the tag of the images that are built: the digest of the code of all steps and of how they are built."""
    build = [path for path in (ROOT / "images").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return _tag([*_all_steps_files(), "requirements.lock", *(path.relative_to(ROOT).as_posix() for path in build)])


def _step_files(step: str) -> list[str]:
    """Return the files that decide what a step does: the modules that it imports with their data, and the pins."""
    return [*closure(step_entry(step), root=ROOT), PINS]


def _all_steps_files() -> list[str]:
    steps = (path.parent.name for path in (ROOT / "components").glob("*/component.py"))
    return [path for step in steps for path in _step_files(step)]


def _tag(files: list[str]) -> str:
    return files_digest(files, ROOT)[:TAG_LENGTH]


def commit() -> str:
    """Return this checkout's commit, with "-dirty" when files differ from it or are new; "" without git."""
    try:
        described = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        files = ("components", "pipelines", PINS)
        new = "" if described.endswith("-dirty") else _git("status", "--porcelain", "--", *files)
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
    """Return git's answer for this checkout, in English, also when the shell's variables name another repository."""
    variables = {name: value for name, value in os.environ.items() if counts(name, os.environ)} | {"LC_ALL": "C"}
    done = subprocess.run(["git", *command], cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    return done.stdout.strip()
