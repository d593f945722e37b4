"""`make pipeline-run FOLDS=3` on a laptop: to an ensemble that is champion; killed on the way it ends the same."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from components.artifacts.cases import Cases
from components.artifacts.evaluation import TestMetrics
from components.artifacts.split_file import Split
from components.artifacts.trained_model import TrainedModel
from components.core.storage import file_sha256
from components.model.inference import load_model, predict_volume
from components.scans.volumes import read
from tests.e2e.test_stopping import training_process, wait_for
from tests.support.checkout import Checkout

pytestmark = pytest.mark.slow

SMALL = "image_size=32 base_channels=4 epochs=3 batch_size=8 precision=float32 memory_format=channels_last"
NETWORKS = {f"train-fold-{fold}" for fold in (1, 2, 3)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(name): a checkout of its own with FOLDS=3 and its scans' folder, and the arguments of a run."""
    houses = []

    def make(name: str) -> Checkout:
        house = Checkout(tmp_path_factory.mktemp(name) / "checkout", one_cpu=True)
        house.environment["FOLDS"] = "3"
        houses.append(house)
        return house

    yield make
    for house in houses:
        house.__exit__()


def arguments(scans: Path) -> tuple[str, ...]:
    return ("run", "--data", str(scans), "--set", SMALL)


@pytest.fixture(scope="module")
def undisturbed(run, demo_scans) -> tuple[Checkout, str]:
    house = run("folds")
    return house, house.python(*arguments(demo_scans))


def output(house: Checkout, step: str, name: str) -> Path:
    """Return what a step of the newest run that did it gave."""
    found = (house.state / "s3" / "dwi-stroke" / "artifacts").glob(f"*/{step}/{name}")
    return max(found, key=lambda path: path.stat().st_mtime)


def test_it_ends_with_an_ensemble_that_is_champion(undisturbed):
    house, printed = undisturbed
    last = house.last_run()
    assert last["status"] == "succeeded" and last["folds"] == 3
    assert set(last["steps"]) == {"fingerprint", "ingest", "preprocess", "split", *NETWORKS, "ensemble", "evaluate",
                                  "register"}  # fmt: skip
    assert last["model"] == {"name": "dwi-attention-unet", "version": "1", "aliases": "challenger,champion"}
    assert (last["metrics"]["test_patients"], last["metrics"]["test_folds"]) == (6, 3)
    assert "These numbers are out-of-fold: of 3 networks" in printed


def test_every_patient_was_measured_by_the_network_that_held_the_patient_out(undisturbed):
    """A plain loop over the files of the steps."""
    house, _ = undisturbed
    folder = output(house, "ingest", "cases")
    cases, split = Cases.read(folder).by_name, Split.read(output(house, "split", "split"))
    wanted = {}
    for fold in (1, 2, 3):
        network, trained = load_model(output(house, f"train-fold-{fold}", "model"))
        for name in split.cases[f"fold-{fold}"]:
            case = cases[name]
            scan, truth = (read(folder / case.files[kind])[0] for kind in ("dwi", "mask"))
            mask = predict_volume(network, trained, scan, voxel_mm=case.voxel_mm) >= trained.threshold
            total = mask.sum() + (truth > 0).sum()
            wanted[name] = 2 * (mask & (truth > 0)).sum() / total if total else 1.0
    found = TestMetrics.read(output(house, "evaluate", "evaluation"))
    assert {case.case: case.dice for case in found.cases} == pytest.approx(wanted)
    assert house.last_run()["metrics"]["test_dice_mean"] == pytest.approx(np.mean(list(wanted.values())))


def test_a_second_run_comes_from_cache_and_its_lineage_follows_every_network(undisturbed, demo_scans):
    house, _ = undisturbed
    assert "Nothing changed: every step came from cache" in house.python(*arguments(demo_scans))
    out = house.python("lineage")
    assert " 0 CHANGED, 0 NOT REACHED" in out
    for fold in (1, 2, 3):
        trained = TrainedModel.read(output(house, f"train-fold-{fold}", "model"))
        section = out.partition(f"network of fold {fold}")[2].partition("\n\n")[0]
        assert section.count("OK ") == 4 and section.count(trained.weights_sha256) == 2


def test_predict_uses_the_ensemble(undisturbed, demo_scans, tmp_path):
    house, _ = undisturbed
    scan = next(demo_scans.rglob("*_dwi.nii.gz"))
    out = house.python("predict", "--input", str(scan), "--output", str(tmp_path / "mask.nii.gz"))
    assert "models:/dwi-attention-unet/1" in out and (tmp_path / "mask.nii.gz").exists()


def weights_and_metrics(house: Checkout) -> tuple[list[str], dict, list]:
    """The digest of each network's weights, the test metrics, and the result of each scan."""
    weights = [file_sha256(output(house, step, "model") / "best_model.pth") for step in (*sorted(NETWORKS), "ensemble")]
    cases = json.loads((output(house, "evaluate", "evaluation") / "test_metrics.json").read_text())["cases"]
    return weights, house.last_run()["metrics"], cases


def test_killed_in_two_folds_it_goes_on_from_fold_and_epoch_and_ends_bit_identical(run, undisturbed, demo_scans):
    house = run("killed")
    process = house.start(*arguments(demo_scans))
    wait_for(process, "epoch 1/3")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    process = house.start(*arguments(demo_scans))
    for line in ("train-fold-1", "train-fold-2", "epoch 1/3"):
        wait_for(process, line)
    training_process(process.pid).kill()
    out, _ = process.communicate()
    assert process.returncode == 1 and "train-fold-2: it was killed (SIGKILL)" in out
    out = house.python(*arguments(demo_scans))
    steps = house.last_run()["steps"]
    assert {step: steps[step]["cached"] for step in sorted(NETWORKS)} == {
        "train-fold-1": True, "train-fold-2": False, "train-fold-3": False,
    }  # fmt: skip
    assert "from the checkpoint" in out.partition("train-fold-2")[2].partition("train-fold-3")[0]
    assert weights_and_metrics(house) == weights_and_metrics(undisturbed[0])
