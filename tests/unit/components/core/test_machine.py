import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.core import machine

ROOT = Path(machine.__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cpus_are_those_this_process_may_use():
    one = next(iter(os.sched_getaffinity(0)))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from components.core.machine import cpus; print(cpus())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "1\n"
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
