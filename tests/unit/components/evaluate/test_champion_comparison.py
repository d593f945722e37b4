"""Which patients make a fair comparison, and what is compared. With a registry: see tests/integration."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from components.artifacts.cases import Case
from components.artifacts.evaluation import ScanResult
from components.artifacts.split_file import RegisteredSplit, patients_tested
from components.artifacts.trained_model import TrainedModel
from components.core.errors import StepError
from components.core.storage import file_sha256
from components.evaluate import champion_comparison
from components.evaluate.champion_comparison import pairs_by_patient
from components.evaluate.evaluate import measure_scans
from components.evaluate.unseen import unfair_test_reason
from components.model.network import AttentionUNet
from components.scans.volumes import BadVolume, write
from tests.support.scan_results import scan_result
from tests.support.trained import trained

THEN = {"train": ["A", "B"], "val": ["C"], "test": ["D", "E"]}


def result(patient: str, **fields) -> ScanResult:
    known = {
        "dice": 0.5, "iou": 0.4, "absolute_volume_difference_ml": 1.0, "relative_volume_difference": 0.1,
        "surface_distance_95_mm": None,
    }  # fmt: skip
    return scan_result(patient, **(known | fields))


def test_the_same_patients_are_a_fair_test():
    assert unfair_test_reason("version 3", THEN, THEN) == ""


def test_new_patients_may_come_into_the_test_that_neither_model_has_seen():
    assert unfair_test_reason("version 3", THEN | {"train": ["A", "B", "X"], "test": ["D", "E", "F"]}, THEN) == ""


@pytest.mark.parametrize(("learnt", "where"), [("A", "train"), ("C", "val")])
def test_a_test_patient_that_the_champion_learnt_from_or_was_tuned_on_makes_it_unfair(learnt, where):
    assert learnt in THEN[where]
    text = unfair_test_reason("version 3", THEN | {"test": ["D", "E", learnt]}, THEN)
    assert text == "version 3 was trained or tuned on 1 of these 3 test patients"


def test_a_test_patient_who_was_taken_out_makes_it_another_test():
    text = unfair_test_reason("version 3", THEN | {"test": ["D", "F"]}, THEN)
    assert text == "these are not the frozen test patients: 1 of version 3's are not among them"


def test_a_champion_with_unknown_patients_is_not_comparable():
    assert "are unknown" in unfair_test_reason("version 3", THEN, None)


def test_pairs_are_of_patients_each_the_mean_of_their_scans():
    ours = [result("A", dice=0.2), result("A", dice=0.4), result("B", dice=0.9)]
    theirs = [result("A", dice=0.5), result("A", dice=0.6), result("B", dice=0.7)]
    pairs = pairs_by_patient(ours, theirs)
    assert pairs["dice"] == {"A": pytest.approx((0.3, 0.55)), "B": pytest.approx((0.9, 0.7))}


def test_a_metric_that_a_patient_lacks_has_no_pair_of_theirs():
    ours = [result("A", absolute_volume_difference_ml=None), result("B")]
    assert set(pairs_by_patient(ours, ours)["absolute_volume_difference_ml"]) == {"B"}
    assert "absolute_volume_difference_ml" not in pairs_by_patient(ours[:1], ours[:1])


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """registry(change): a champion made of the folder that it gives, but for a change of its facts' digest."""

    def make(facts_sha256: str | None = None) -> Path:
        (tmp_path / "model.json").write_text("{}")
        (tmp_path / "best_model.pth").write_bytes(b"weights")
        digests = {tag: file_sha256(tmp_path / name) for tag, name in
                   (("weights_sha256", "best_model.pth"), ("facts_sha256", "model.json"))}  # fmt: skip
        if facts_sha256:
            digests["facts_sha256"] = facts_sha256
        version = SimpleNamespace(version="3", source="m-3", tags=digests, run_id="r", name="m")
        monkeypatch.setattr(champion_comparison.tracking, "champion", lambda client: version)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # else the client makes a database here
        then = RegisteredSplit(patients=THEN, digest="d")
        monkeypatch.setattr(champion_comparison, "_download_split", lambda *_: then)
        return tmp_path

    return make


def measured_again(*_):
    raise StepError("measured again")


def test_a_champion_that_is_this_very_model_is_not_measured_once_more(registry):
    """With nothing changed, the evaluation works for seconds less on every run."""
    both = champion_comparison.compare_with_champion(
        [result("D"), result("E")], THEN, measured_again, False, registry()
    )
    assert both.pairs["dice"] == {"D": (0.5, 0.5), "E": (0.5, 0.5)} and both.reason == ""
    assert both.differences["dice"].mean == 0


def test_a_champion_with_the_same_weights_and_another_threshold_is_measured(registry, monkeypatch):
    monkeypatch.setattr(champion_comparison, "download_model", lambda *_: None)
    monkeypatch.setattr(champion_comparison, "load_model", lambda _: ("network", trained()))
    other = champion_comparison.compare_with_champion([result("D")], THEN, measured_again, False, registry("another"))
    assert "measured again" in other.reason


FOLDS = {"fold-1": ["A", "D"], "fold-2": ["B", "E"], "fold-3": ["C"]}


@pytest.fixture
def compared(registry, monkeypatch):
    """compared(then, now, networks): pairs of Dice and the reason; the champion's Dice is the threshold in use."""

    def run(then: dict, now: dict, networks: int = 0) -> tuple[dict, str]:
        model = registry("another")
        registered = RegisteredSplit(patients=then, digest="d")
        network = nn.ModuleList(nn.Linear(1, 1) for _ in range(networks)) if networks else nn.Linear(1, 1)
        members = [trained(threshold=n / 10) for n in range(1, networks + 1)]
        monkeypatch.setattr(champion_comparison, "download_model", lambda *_: None)
        monkeypatch.setattr(champion_comparison, "_download_split", lambda *_: registered)
        monkeypatch.setattr(champion_comparison, "load_model", lambda _: (network, trained(networks=members)))
        patients = sorted(patients_tested(now))
        found = champion_comparison.compare_with_champion(
            [result(patient) for patient in patients], now,
            lambda network, facts, chosen: [result(patient, dice=facts.threshold) for patient in chosen],
            False, model, {patient: set() for patient in patients},
        )  # fmt: skip
        return {patient: pair[1] for patient, pair in (found.pairs or {}).get("dice", {}).items()}, found.reason

    return run


def test_folds_are_compared_with_folds_over_all_patients_each_by_the_network_that_held_the_patient_out(compared):
    assert compared(FOLDS, FOLDS, networks=3) == ({"A": 0.1, "D": 0.1, "B": 0.2, "E": 0.2, "C": 0.3}, "")


def test_folds_and_one_split_are_compared_on_what_both_allow(compared):
    assert compared(THEN, FOLDS) == ({"D": 0.5, "E": 0.5}, "")
    assert compared(FOLDS, THEN, networks=3) == ({"D": 0.1, "E": 0.2}, "")


def test_if_the_champion_has_seen_every_patient_the_comparison_is_refused_in_words(compared):
    pairs, reason = compared({"train": ["A", "B", "C", "D"], "val": ["E"], "test": []}, FOLDS)
    assert pairs == {}
    assert reason == "version 3 has seen every test patient in each network that could predict the patient"


@pytest.fixture
def case(tmp_path, make_scan) -> Case:
    """A case in `tmp_path`."""
    dwi, _, mask = make_scan()
    for name, data in (("d.nii.gz", dwi), ("m.nii.gz", mask)):
        write(tmp_path / name, data, np.eye(4))
    files = {"dwi": "d.nii.gz", "mask": "m.nii.gz"}
    return Case.model_construct(case="A", patient="A", files=files, slice_numbers=None, voxel_mm=(1, 1, 1))


def test_an_older_champion_without_optional_facts_is_measured(tmp_path, case):
    old = TrainedModel(image_size=32, normalization="volume", base_channels=4, threshold=0.5)
    [found] = measure_scans(AttentionUNet(4).eval(), old, tmp_path, [case])
    assert 0 <= found.result.dice <= 1
    assert (found.result.predicted_ml_low, found.result.needs_review) == (None, [])
    before, after = found.reliability
    assert before[:, 0].sum() > 0
    assert (before == after).all()


def test_a_champion_that_needs_a_missing_adc_map_gives_a_clear_error(tmp_path, case):
    """As evaluate measures it: the challenger's scans need not have what an older champion saw."""
    champion = TrainedModel(inputs="dwi+adc", image_size=32, normalization="volume", base_channels=4)
    with pytest.raises(BadVolume, match="the model needs an ADC map too"):
        measure_scans(AttentionUNet(4, 6), champion, tmp_path, [case])
