"""Out-of-fold evaluation: each patient by the network that held out the patient's fold, and by no other."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from components.artifacts.evaluation import FOLDS, read_folds
from components.artifacts.trained_model import TrainedModel
from components.core.errors import StepError
from components.ensemble.ensemble import ensemble
from components.evaluate.evaluate import collect_folds, collect_metrics, held_out_tests, mean_temperature, measure_scans
from components.evaluate.threshold_rule_score import measure_rule
from components.model.inference import load_model, predict_volume
from components.model.network import AttentionUNet
from components.scans.volumes import read
from tests.support.folds import (
    PATIENTS,
    TEMPERATURES,
    THRESHOLDS,
    VOXEL_MM,
    split_into_folds,
    write_cases,
    write_networks,
)

METRICS = ("dice", "iou", "lesion_f1", "absolute_volume_difference_ml", "lesion_count_difference")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Scans in three folds, the networks' folders, and their ensemble."""
    folder = tmp_path_factory.mktemp("folds")
    cases = write_cases(folder / "cases", [name for names in PATIENTS.values() for name in names])
    split = split_into_folds()
    split.write(folder / "split.json")
    folders = write_networks(folder, split)
    ensemble(folder / "split.json", folders, folder / "model")
    return folder, cases, split, folders


@pytest.fixture(scope="module")
def measured(house):
    """The tests, the results of each, and the metrics over all."""
    folder, cases, split, _ = house
    network, trained = load_model(folder / "model")
    tests = held_out_tests(network, trained, split, cases)
    scans = [measure_scans(test.network, test.trained, folder / "cases", test.cases) for test in tests]
    results = [scan.result for part in scans for scan in part]
    rule = measure_rule(folder / "cases", [case for test in tests for case in test.cases])
    results = [result.model_copy(update=fields) for result, fields in zip(results, rule, strict=True)]
    bins = np.sum([scan.reliability for part in scans for scan in part], axis=0)
    return tests, scans, results, collect_metrics(results, bins, trained, False)


def plain_loop(house) -> dict[str, tuple[float, float]]:
    """Each patient's Dice and predicted mL, from the files alone."""
    folder, cases, _, folders = house
    found = {}
    for number, (fold, patients) in enumerate(PATIENTS.items()):
        network = AttentionUNet(4)
        network.load_state_dict(torch.load(folders[number] / "best_model.pth", weights_only=True))
        facts = TrainedModel.read(folders[number])
        for patient in patients:
            case = cases.by_name[patient]
            scan, truth = (read(folder / "cases" / case.files[kind])[0] for kind in ("dwi", "mask"))
            mask = predict_volume(network.eval(), facts, scan, voxel_mm=VOXEL_MM) >= THRESHOLDS[number]
            both, total = (mask & (truth > 0)).sum(), mask.sum() + (truth > 0).sum()
            found[patient] = (2 * both / total if total else 1.0, mask.sum() * np.prod(VOXEL_MM) / 1000)
        assert fold == f"fold-{number + 1}"
    return found


def test_out_of_fold_metrics_are_those_of_a_plain_loop(house, measured):
    *_, results, metrics = measured
    wanted = plain_loop(house)
    assert len(set(dice for dice, _ in wanted.values())) > 3
    assert {r.patient: (r.dice, r.predicted_ml) for r in results} == {p: pytest.approx(v) for p, v in wanted.items()}
    assert metrics.summary["test_dice_mean"] == pytest.approx(np.mean([dice for dice, _ in wanted.values()]))
    assert (metrics.summary["test_patients"], metrics.summary["test_folds"]) == (6, 3)


def test_all_that_a_test_set_gives_is_given_over_all_patients_and_for_each_fold(measured):
    tests, scans, results, whole = measured
    folds = collect_folds(tests, scans, results, False)
    assert list(folds) == list(PATIENTS)
    for fold, found in folds.items():
        assert [case.patient for case in found.cases] == PATIENTS[fold]
        assert found.summary.keys() <= whole.summary.keys() | {name for name in found.summary if "rule" in name}
        for metric in METRICS:
            mean = np.mean([getattr(case, metric) for case in found.cases])
            assert found.summary[f"test_{metric}_mean"] == pytest.approx(mean)
    assert sum(found.lesion_free.scans for found in folds.values()) == whole.lesion_free.scans == 1
    assert sum(found.review.failures for found in folds.values()) == whole.review.failures
    voxels = [sum(b.voxels for b in found.calibration.bins_before) for found in (*folds.values(), whole)]
    assert sum(voxels[:-1]) == voxels[-1] > 0
    assert [found.threshold for found in folds.values()] == list(THRESHOLDS)


def test_the_files_of_the_folds_are_read_in_their_order(measured, tmp_path):
    *_, metrics = measured
    (tmp_path / FOLDS).mkdir()
    for fold in (10, 2, 1):
        metrics.write(tmp_path / FOLDS / f"fold-{fold}.json")
    assert list(read_folds(tmp_path)) == ["fold-1", "fold-2", "fold-10"]
    assert read_folds(tmp_path / "without") == {}


def test_the_network_of_another_split_is_not_tested(house):
    folder, cases, *_ = house
    network, trained = load_model(folder / "model")
    other = split_into_folds({"fold-1": ["A", "C"], "fold-2": ["B", "D"], "fold-3": ["E", "F"]})
    with pytest.raises(StepError, match="the network of fold 1 was not trained without this fold"):
        held_out_tests(network, trained, other, cases)


def test_the_temperature_of_an_ensemble_is_the_mean_of_those_of_its_networks(house):
    folder, *_, folders = house
    assert mean_temperature(TrainedModel.read(folder / "model")) == pytest.approx(np.mean(TEMPERATURES))
    assert mean_temperature(TrainedModel.read(folders[2])) == 2.0


def test_the_ensemble_predicts_the_plain_mean_of_its_calibrated_networks(house):
    folder, cases, _, folders = house
    network, trained = load_model(folder / "model")
    scan, _ = read(folder / "cases" / cases.by_name["C"].files["dwi"])
    ours = predict_volume(network, trained, scan, voxel_mm=VOXEL_MM)
    each = []
    for one, temperature in zip(folders, TEMPERATURES, strict=True):
        probability = predict_volume(*load_model(one), scan, voxel_mm=VOXEL_MM)
        each.append(expit(logit(probability.astype(float)) / temperature))
    np.testing.assert_allclose(ours, np.mean(each, axis=0), atol=1e-6)
    assert np.abs(ours - each[0]).max() > 0.01
    assert ours.dtype == np.float32


def test_a_file_that_is_no_ensembles_is_refused(house, tmp_path):
    folder, *_, folders = house
    trained = TrainedModel.read(folder / "model").model_copy(update={"weights_sha256": None, "tensors_sha256": None})
    trained.write(tmp_path / "model.json")
    (tmp_path / "best_model.pth").write_bytes((folders[0] / "best_model.pth").read_bytes())
    with pytest.raises(StepError, match=r"best_model.pth holds \d+ networks, and model.json describes 3"):
        load_model(tmp_path)
