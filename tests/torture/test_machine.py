"""A machine that fails: full disk, little memory, tiny /dev/shm, places that cannot be written,
two runs at once, a port that is taken. Each ends in a clear sentence or works, and nothing is lost."""

import contextlib
import os
import resource
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.checkout import ROOT, Checkout

SETTINGS = "image_size=32 base_channels=4 epochs=2 batch_size=8 precision=float32 memory_format=contiguous"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    with Checkout(tmp_path_factory.mktemp("machine") / "checkout", one_cpu=True) as checkout:
        yield checkout


@pytest.fixture
def mounted(tmp_path):
    """mounted(megabytes): a folder that is a file system of its own, in memory; root alone can make one."""
    made = []

    def mount(megabytes: int) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        if subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("needs the right to mount a small file system")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)])


def run(checkout: Checkout, demo_scans: Path, *more: str) -> tuple[int, str]:
    process = checkout.start("run", "--data", str(demo_scans), "--set", " ".join([SETTINGS, *more]))
    out, _ = process.communicate(timeout=280)
    return process.returncode, out


def said(out: str, *sentences: str) -> None:
    """One of the sentences was said, and no stack shown."""
    assert any(sentence in out for sentence in sentences), out[-3000:]
    assert "Traceback" not in out, out[-3000:]


def wait_for(process: subprocess.Popen, text: str) -> str:
    """What it said until it said this, or ended."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
    return "".join(lines)


def states(checkout: Checkout) -> tuple[list[str], int]:
    """The states of MLflow's runs, and how many model versions there are."""
    with contextlib.closing(sqlite3.connect(checkout.state / "mlflow" / "mlflow.db")) as database:
        runs = [state for (state,) in database.execute("select status from runs")]
        return runs, database.execute("select count(*) from model_versions").fetchone()[0]


def test_places_that_cannot_be_written(campaign, demo_scans, tmp_path, mounted):
    with Checkout(tmp_path / "checkout", one_cpu=True) as checkout:
        locked = mounted(50)
        checkout.state.symlink_to(locked)
        subprocess.run(["mount", "-o", "remount,ro", str(locked)], check=True)
        code, out = run(checkout, demo_scans)
        assert code == 1
        said(out, "Read-only file system")
        campaign.count("working directory that cannot be written: said in words")


def test_a_port_that_is_taken(campaign, demo_scans, tmp_path):
    for name in ("S3_PORT", "MLFLOW_PORT"):
        with Checkout(tmp_path / name, one_cpu=True) as checkout, socket.create_server(("127.0.0.1", 0)) as taken:
            checkout.environment[name] = str(taken.getsockname()[1])
            code, out = run(checkout, demo_scans)
            assert code == 1
            said(out, f"is taken by another program. Free it, or choose another: make up {name}=")
            campaign.count("port taken: said in words, with a free one")


@pytest.mark.parametrize("megabytes", [0, 1])
def test_a_tiny_shared_memory(campaign, megabytes, tmp_path):
    """The loader of a GPU's training, with as many processes as the shared memory has room for."""
    code = (
        "import numpy as np, torch\n"
        "from types import SimpleNamespace\n"
        "from components.train.data import EpochBatches, StackDataset, loader\n"
        "dataset = object.__new__(StackDataset)\n"
        "StackDataset.side, StackDataset.channels, StackDataset.__getitem__ = 64, 3, (lambda self, item: "
        "(np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), np.uint8)))\n"
        "data = loader(dataset, EpochBatches(np.ones(64, bool), 8, 0, 0), torch.device('cuda'), 4)\n"
        "print(data.num_workers, sum(len(images) for images, _ in data))"
    )
    shell = f"mount -t tmpfs -o size={megabytes or 1}m tmpfs /dev/shm && "
    shell += "" if megabytes else "head -c 1000000 /dev/zero > /dev/shm/full; "
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{shell} exec "$0" -W ignore -c "$1"', sys.executable, code],
        capture_output=True, text=True, cwd=ROOT, timeout=200, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("needs the right to mount a small file system")
    assert done.returncode == 0, done.stderr
    workers, slices = done.stdout.split()
    assert int(workers) < 3 and int(slices) == 64
    campaign.count("tiny /dev/shm: loaded with fewer processes")


def test_memory_that_runs_out_within_training(campaign, checkout, demo_scans):
    """From some moment on the step gets no more memory, as under ulimit -v; its killer is in test_kills."""
    process = checkout.start("run", "--data", str(demo_scans), "--set", f"{SETTINGS} random_seed=3 epochs=40")
    wait_for(process, "epoch 1/")
    for step in step_processes(process.pid):
        resource.prlimit(step, resource.RLIMIT_AS, (1 << 20, 1 << 20))
    out, _ = process.communicate(timeout=280)
    if process.returncode:
        said(out, "out of memory", "memory runs out", "does not fit into memory")
    campaign.count("memory limit: said in words" if process.returncode else "memory limit: what it had sufficed")
    code, out = run(checkout, demo_scans, "random_seed=3 epochs=40")
    assert code == 0, out
    campaign.count("memory limit: the same command went on with more")


def step_processes(parent: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(parent).children(recursive=True)
        return [c.pid for c in children if "kfp.dsl.executor_main" in c.cmdline() and c.name().startswith("python")]
    return []


def test_a_home_that_cannot_be_written(campaign, demo_scans, tmp_path):
    with Checkout(tmp_path / "checkout", one_cpu=True) as checkout:
        checkout.environment["HOME"] = "/proc/nowhere"
        code, out = run(checkout, demo_scans)
        assert code == 0, out
        campaign.count("home that cannot be written: works")


def test_two_runs_at_the_same_moment(campaign, checkout, demo_scans):
    for seed in campaign.rounds(most=3):
        both = [
            checkout.start("run", "--data", str(demo_scans), "--set", f"{SETTINGS} random_seed={seed}") for _ in "ab"
        ]
        outs = [process.communicate(timeout=280)[0] for process in both]
        assert sorted(process.returncode for process in both) == [0, 1], outs
        said(outs[[p.returncode for p in both].index(1)], "another pipeline run is going on here")
        campaign.count("two runs at once in one checkout: one works, the other says so")


def test_two_checkouts_on_the_same_services_at_the_same_moment(campaign, checkout, demo_scans, tmp_path):
    services = checkout.services()
    with Checkout(tmp_path / "other", one_cpu=True) as other:
        other.environment |= services
        versions = states(checkout)[1]
        both = [
            c.start("run", "--data", str(demo_scans), "--set", f"{SETTINGS} random_seed=77") for c in (checkout, other)
        ]
        outs = [process.communicate(timeout=290)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], outs
        assert checkout.last_run()["metrics"] == other.last_run()["metrics"]
        assert checkout.last_run()["run_id"] != other.last_run()["run_id"]
        runs, there = states(checkout)
        assert "RUNNING" not in runs
        assert there - versions == 1
        campaign.count("two checkouts at once on the same services: both work, with the same numbers, and one version")


def test_a_full_disk(campaign, demo_scans, tmp_path, mounted):
    """The state folder lies on a small disk; with room again the same command goes on and ends."""
    disk = mounted(300)
    with Checkout(tmp_path / "checkout", one_cpu=True) as checkout:
        checkout.state.symlink_to(disk)
        for step in ("preprocess", "train"):
            process = checkout.start("run", "--data", str(demo_scans), "--set", SETTINGS)
            wait_for(process, f"] {step}")
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(b"\0" * 65536):
                    pass
            out, _ = process.communicate(timeout=280)
            (disk / "filler").unlink()
            assert process.returncode == 1, out
            said(out, "disk is full", "is full", "No space left")
            campaign.count("full disk: said in words")
        code, out = run(checkout, demo_scans)
        assert code == 0, out
        campaign.count("full disk: the same command went on when there was room")
