"""Pictures are drawn into files, also where a notebook's kernel has named its own backend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
DRAWING = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for room in ("components", "pipelines")
    for path in (ROOT / room).rglob("*.py")
    if "from components.core.pyplot import" in path.read_text()
)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("module", DRAWING)
def test_a_notebooks_backend_is_not_looked_for(module):
    shell = {**os.environ, "MPLBACKEND": "module://not_installed.backend", "PYTHONPATH": str(ROOT)}
    code = f"import {module}, matplotlib; print(matplotlib.get_backend().lower())"
    done = subprocess.run([sys.executable, "-c", code], env=shell, capture_output=True, text=True)
    assert done.stdout == "agg\n", done.stderr


def test_all_that_draw_take_matplotlib_from_there():
    sources = [path for room in ("components", "pipelines") for path in (ROOT / room).rglob("*.py")]
    assert len(DRAWING) > 3
    assert [p.name for p in sources if "import matplotlib" in p.read_text()] == ["pyplot.py"]
