import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.core import machine

COMPONENTS = Path(machine.__file__).parents[1]


@pytest.fixture
def copy(tmp_path):
    """A copy of two packages of components/, and its own machine module."""
    for package in ("core", "split"):
        shutil.copytree(COMPONENTS / package, tmp_path / "components" / package)
    spec = importlib.util.spec_from_file_location("copied_machine", tmp_path / "components" / "core" / "machine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tmp_path / "components", module.sources_digest


def test_the_digest_of_the_sources_is_the_same_wherever_they_lie(copy):
    _, digest = copy
    assert digest("core", "split") == machine.sources_digest("core", "split")


def test_the_digest_changes_with_the_code(copy):
    folder, digest = copy
    before = digest("core", "split")
    with (folder / "split" / "split.py").open("a") as code:
        code.write("\n")
    assert digest("core", "split") != before
    assert digest("core") == machine.sources_digest("core")


def test_the_digest_changes_where_a_file_is_renamed_added_or_removed(copy):
    folder, digest = copy
    before = {digest("core", "split")}
    (folder / "split" / "split.py").rename(folder / "split" / "cut.py")
    before.add(digest("core", "split"))
    (folder / "core" / "new.py").touch()
    before.add(digest("core", "split"))
    (folder / "split" / "cut.py").unlink()
    before.add(digest("core", "split"))
    assert len(before) == 4


def test_the_digest_does_not_feel_compiled_or_other_files(copy):
    folder, digest = copy
    before = digest("core")
    (folder / "core" / "__pycache__").mkdir(exist_ok=True)
    (folder / "core" / "__pycache__" / "step.cpython-311.pyc").write_bytes(b"anything")
    (folder / "core" / "notes.txt").write_text("anything")
    assert digest("core") == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cpus_are_those_this_process_may_use():
    one = next(iter(os.sched_getaffinity(0)))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from components.core.machine import cpus; print(cpus())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=COMPONENTS.parent) == "1\n"
    assert 1 <= machine.cpus() <= os.cpu_count()


@pytest.mark.parametrize(
    ("variables", "asked"),
    [({}, 0), ({"GPUS": ""}, 0), ({"GPUS": "2"}, 2), ({"TRAIN_GPUS": "4"}, 4), ({"TRAIN_GPUS": "4", "GPUS": "1"}, 4)],
)
def test_the_gpus_that_were_asked_for(monkeypatch, variables, asked):
    for name in ("GPUS", "TRAIN_GPUS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machine.asked_gpus() == asked


def test_gpus_that_are_not_a_number_are_refused(monkeypatch):
    monkeypatch.delenv("TRAIN_GPUS", raising=False)
    monkeypatch.setenv("GPUS", "all")
    with pytest.raises(machine.StepError, match="GPUS=all is not a whole number"):
        machine.asked_gpus()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "9000000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.shares": "1024\n"}, 16),
        ({}, 16),
    ],
    ids=["v2", "v2, a part of one", "v2, none", "v1", "v1, none", "v1, more than there are", "v1, unset", "no cgroup"],
)
def test_a_containers_limit_is_read_from_either_version_of_cgroups(tmp_path, monkeypatch, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert machine.cpus() == expected
