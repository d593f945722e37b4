"""make lock with a stand-in for uv: what it asks for, and that a failure leaves the lock files as they are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKS = ("requirements.lock", "images/requirements-mlflow.lock", "requirements-dev.lock")
UV = """#!{python}
import json, os, pathlib, sys
with open("calls", "a") as calls:
    calls.write(json.dumps([sys.argv[1:], os.environ.get("UV_DEFAULT_INDEX")]) + "\\n")
if "fail" in os.environ:
    sys.exit("no route to the index")
out = pathlib.Path(sys.argv[sys.argv.index("--output-file") + 1])
assert not out.exists(), "uv would take over from the old one"
out.write_text("a==1 \\\\\\n    --hash=sha256:0\\n")
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    for name in (".ci/lock", "requirements.txt", "requirements-dev.txt", *LOCKS, "images/requirements-mlflow.txt",
                 "images/requirements-torch.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name, text in {"uv": UV.format(python=sys.executable), "python": "#!/bin/sh\necho https://mirror/\n"}.items():
        (tmp_path / ".venv/bin" / name).write_text(text)
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    return tmp_path


def lock(checkout: Path, **variables: str) -> tuple[int, str, list]:
    shell = {name: value for name, value in os.environ.items() if not name.startswith("UV_")} | variables
    done = subprocess.run([checkout / ".ci/lock"], env=shell, capture_output=True, text=True)
    calls = [json.loads(line) for line in (checkout / "calls").read_text().splitlines()]
    return done.returncode, done.stdout + done.stderr, calls


def test_each_lock_file_is_written_from_its_pins_without_torch(checkout):
    status, said, calls = lock(checkout)
    assert status == 0, said
    assert said.splitlines() == [f"{name}: 1 packages" for name in LOCKS]
    assert all((checkout / name).read_text().startswith("a==1 ") for name in LOCKS)
    (main, index), (mlflow, _), (dev, _) = calls
    assert index == "https://mirror/", "pip's own index is asked"
    assert main[-2] == "requirements.txt" and {"--generate-hashes", "--universal", "--no-deps"} <= {*main}
    assert main[main.index("--no-emit-package") + 1] == "torch"
    assert mlflow[-1] == "images/requirements-mlflow.txt" and dev[-1] == "requirements-dev.txt"
    assert {"numpy", "torch", "pip"} <= {*dev} and "--no-deps" not in dev


def test_an_index_that_is_named_is_asked(checkout):
    assert lock(checkout, UV_DEFAULT_INDEX="https://ours/")[2][0][1] == "https://ours/"


def test_a_failure_leaves_the_lock_files_as_they_are(checkout):
    status, said, _ = lock(checkout, fail="1")
    assert status != 0 and "no route to the index" in said
    assert all((checkout / name).read_bytes() == (ROOT / name).read_bytes() for name in LOCKS)
