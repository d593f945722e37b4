"""`make experiments` whole: real runs, small."""

import json
import os
import signal

import pytest

from tests.support.checkout import Checkout

pytestmark = pytest.mark.slow
SMALL = "image_size=32 base_channels=4 epochs=2 batch_size=8 precision=float32"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    with Checkout(tmp_path_factory.mktemp("experiments") / "checkout", one_cpu=True) as checkout:
        yield checkout


@pytest.fixture(scope="module")
def command(demo_scans):
    what = ("--data", str(demo_scans), "--presets", "cca", "--seeds", "1", "--set", SMALL)
    return ("experiments", *what)


def test_ctrl_c_stops_at_once_and_the_same_command_goes_on_to_the_comparison(checkout, command):
    process = checkout.start(*command)
    for line in process.stdout:
        if "2 of 2: cca, seed 42" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=15)
    assert process.returncode == 130 and "Traceback" not in out
    assert "Run the same command again to go on from here." in out

    out = checkout.python(*command)
    assert "2 of 2: cca, seed 42" in out and "continuing after epoch 2 of 2, from the checkpoint" in out
    assert "SYNTHETIC scans: these numbers say nothing about patients." in out
    (folder,) = (checkout.state / "experiments").iterdir()
    assert "Differences from baseline" in (folder / "page.html").read_text()
    presets = json.loads((folder / "comparison.json").read_text())["presets"]
    assert presets["cca"]["training_seconds"] == presets["baseline"]["training_seconds"] > 0
    assert presets["cca"]["runs"] != presets["baseline"]["runs"]


def test_once_finished_it_takes_seconds_and_trains_nothing(checkout, command):
    out = checkout.python(*command)
    assert "2 of 2: cca, seed 42\n      finished before, in run " in out
    assert "train loss" not in out and "from the checkpoint" not in out
