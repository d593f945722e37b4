"""A run may be stopped or killed at any moment: nothing half-made stays, and going on ends as if nothing had been."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.checkout import Checkout

pytestmark = pytest.mark.slow

EPOCHS = 20
SETTINGS = f"image_size=32 base_channels=4 epochs={EPOCHS} early_stop_patience={EPOCHS} batch_size=4"
SETTINGS += " precision=float32 memory_format=channels_last"  # a measurement may choose otherwise in another run


def start(checkout, scans, settings=SETTINGS):
    return checkout.start("run", "--data", str(scans), "--set", settings)


def wait_for(process, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the run ended before it said {text!r}")


def training_process(parent: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(parent).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name().startswith("python") and "kfp.dsl.executor_main" in child.cmdline():
                    return child
    return None


def left_over(run_pid: int, group: set[int]) -> list[int]:
    deadline = time.monotonic() + 5
    while (alive := [p for p in group if psutil.pid_exists(p)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


def outcome(checkout) -> tuple[list, dict]:
    """Every epoch's metrics and the test metrics of the last run, wall-clock times aside."""
    artifacts = checkout.state / "s3" / "dwi-stroke" / "artifacts"
    newest = max(artifacts.glob("*/train/model/history.json"), key=lambda p: p.stat().st_mtime)
    history = [{k: v for k, v in row.items() if k not in ("time", "seconds")} for row in json.loads(newest.read_text())]
    return history, checkout.last_run()["metrics"]


def forget_training(checkout) -> None:
    """Remove what a later run could take the result from, so that it has to train again."""
    shutil.rmtree(checkout.state / "cache")
    shutil.rmtree(checkout.state / "s3" / "dwi-stroke" / "checkpoints")
    time.sleep(2)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    with Checkout(tmp_path_factory.mktemp("killed") / "checkout", one_cpu=True) as checkout:
        yield checkout


@pytest.fixture(scope="module")
def undisturbed(checkout, demo_scans):
    start(checkout, demo_scans).communicate()
    result = outcome(checkout)
    assert len(result[0]) == EPOCHS
    forget_training(checkout)
    return result


def test_three_kills_at_random_moments_of_training_end_bit_identical(checkout, demo_scans, undisturbed):
    moments = random.Random(20261123)
    for kill in range(3):
        process = start(checkout, demo_scans)
        wait_for(process, "train loss")
        time.sleep(moments.uniform(0, 0.5))
        children = {c.pid for c in psutil.Process(process.pid).children(recursive=True)}
        if kill % 2:
            os.kill(process.pid, signal.SIGKILL)
        else:
            training_process(process.pid).kill()
        out, _ = process.communicate()
        assert process.returncode
        assert kill % 2 or "train: it was killed (SIGKILL)" in out
        assert left_over(process.pid, children) == []
    out, _ = start(checkout, demo_scans).communicate()
    assert "from the checkpoint" in out
    assert outcome(checkout) == undisturbed


def test_the_killed_runs_leave_one_finished_mlflow_run(checkout, undisturbed):
    import subprocess
    import sys

    code = (
        "import mlflow, json\n"
        "runs = mlflow.MlflowClient().search_runs(['1'])\n"
        "print(json.dumps([r.info.status for r in runs]))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], env=checkout.environment | checkout.services(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert set(json.loads(out.stdout.splitlines()[-1])) == {"FINISHED"}


def test_each_run_is_noted_for_what_became_of_it_the_killed_one_by_the_next(checkout, undisturbed):
    runs = [json.loads(path.read_text()) for path in sorted(checkout.state.glob("runs/*/summary.json"))]
    assert [run["status"] for run in runs] == ["succeeded", "failed", "killed", "failed", "succeeded"]


def test_sigterm_of_the_training_step_is_told_from_a_failure_and_loses_no_batch(checkout, demo_scans, undisturbed):
    process = start(checkout, demo_scans, SETTINGS + " random_seed=6")
    wait_for(process, f"epoch 1/{EPOCHS}")
    training_process(process.pid).terminate()
    out, _ = process.communicate()
    assert process.returncode == 1
    assert "told to stop (SIGTERM): kept to epoch" in out
    assert "train: it was stopped (SIGTERM). The same command continues from here." in out


def test_ctrl_c_leaves_no_process_and_nothing_half_written(checkout, demo_scans, undisturbed):
    process = start(checkout, demo_scans, SETTINGS + " random_seed=7")
    wait_for(process, f"epoch 1/{EPOCHS}")
    children = {c.pid for c in psutil.Process(process.pid).children(recursive=True)}
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in out
    assert left_over(process.pid, children) == []
    run = checkout.last_run()
    assert run["status"] == "stopped"
    newest = max((checkout.state / "s3" / "dwi-stroke" / "artifacts").iterdir(), key=lambda p: p.stat().st_mtime)
    assert not (newest / "train").exists()
    assert not list(Path(checkout.state / "runs" / run["run_id"]).glob("tmp"))
    assert not list(checkout.state.rglob("*.part"))


def test_two_runs_at_once_do_not_meet(checkout, demo_scans, undisturbed):
    first = start(checkout, demo_scans, SETTINGS + " random_seed=8")
    wait_for(first, f"epoch 1/{EPOCHS}")
    second = start(checkout, demo_scans)
    out, _ = second.communicate()
    assert second.returncode == 1
    assert f"another pipeline run is going on here (process {first.pid})" in out
    os.killpg(first.pid, signal.SIGINT)
    first.communicate()
