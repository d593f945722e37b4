"""The import rules of pyproject.toml refuse what the plan of the rooms refuses."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = sorted(path.parent.name for path in (ROOT / "components").glob("*/component.py"))
pytest.importorskip("importlinter")


@pytest.fixture
def checkout(tmp_path) -> Path:
    for name in ("components", "pipelines"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken(checkout: Path) -> list[str]:
    """Return the names of the rules that the checkout breaks."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    lines = re.findall(r"^(.*) BROKEN", done.stdout, re.MULTILINE)
    assert bool(done.returncode) == bool(lines), done.stdout + done.stderr
    return lines


def test_the_code_keeps_every_rule(checkout):
    assert broken(checkout) == []


@pytest.mark.parametrize(
    ("module", "line", "rule"),
    [
        ("components/core/text.py", "import components.scans.head", "rooms below it"),
        ("components/scans/head.py", "import components.model.grid", "rooms below it"),
        ("components/artifacts/cases.py", "import components.model.grid", "rooms below it"),
        ("components/split/split.py", "def f():\n    import components.ingest.ingest", "rooms below it"),
        ("components/registry/ledger.py", "import components.scans.head", "registry"),
        ("components/train/train.py", "import pipelines.summary", "pipelines"),
        ("components/train/train.py", "import kfp.dsl", "kfp"),
        ("pipelines/cluster/api.py", "import pipelines.local.services", "each other"),
        ("components/scans/geometry.py", "def f():\n    import components.scans.volumes", "circle"),
    ],
)
def test_an_import_against_a_rule_is_found(module, line, rule, checkout):
    with (checkout / module).open("a") as file:
        file.write(f"\n\n{line}\n")
    assert [name for name in broken(checkout) if rule in name]


def test_every_step_has_its_place_in_the_layers():
    (layers,) = (
        contract["layers"]
        for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    assert sorted(layers[0].split(" | ")) == STEPS
