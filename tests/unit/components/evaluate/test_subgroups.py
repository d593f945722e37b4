"""Results by subgroup, and of lesion-free scans."""

import pytest

from components.artifacts.evaluation import Subgroup
from components.core.intervals import bounded_mean_interval
from components.evaluate.subgroups import lesion_free, subgroups

VOLUMES = ["<1 mL", "1-5 mL", "5-20 mL", ">20 mL"]


def counts(rows: dict[str, Subgroup]) -> dict[str, tuple[int, int]]:
    return {name: (row.patients, row.scans) for name, row in rows.items()}


@pytest.mark.parametrize(
    ("ml", "stratum"),
    [(0.01, "<1 mL"), (0.999, "<1 mL"), (1, "1-5 mL"), (4.99, "1-5 mL"), (5, "5-20 mL"), (20, "5-20 mL"),
     (20.01, ">20 mL"), (300, ">20 mL")],
)  # fmt: skip
def test_a_scan_is_in_the_subgroup_of_its_true_volume(result, ml, stratum):
    rows = subgroups([result("A", truth_ml=ml)])["lesion volume"]
    assert list(rows) == VOLUMES
    assert [name for name, row in rows.items() if row.scans] == [stratum]


def test_a_row_is_means_over_patients_each_the_mean_of_their_scans(result):
    scans = [
        result("A", dice=0.2, lesion_f1=0.0, truth_ml=2.0, predicted_ml=4.0),
        result("A", dice=0.4, lesion_f1=1.0, truth_ml=2.0, predicted_ml=2.0),
        result("B", dice=0.9, lesion_f1=1.0, truth_ml=2.0, predicted_ml=1.0),
        *(result(name, dice=0.6, lesion_f1=1.0, truth_ml=2.0, predicted_ml=2.0) for name in "CDE"),
    ]
    row = subgroups(scans)["lesion volume"]["1-5 mL"]
    low, high = bounded_mean_interval([0.3, 0.9, 0.6, 0.6, 0.6])
    assert row.model_dump() == {
        "patients": 5, "scans": 6, "dice_mean": pytest.approx(0.6),
        "dice_ci_low": pytest.approx(low), "dice_ci_high": pytest.approx(high),
        "lesion_f1_mean": pytest.approx(4.5 / 5), "absolute_volume_difference_ml_mean": pytest.approx(2 / 5),
    }  # fmt: skip


def test_fewer_than_five_patients_have_no_interval(result):
    row = subgroups([result(name) for name in "ABCD"])["lesion volume"]["1-5 mL"]
    mean, low, high = row.dice_mean, row.dice_ci_low, row.dice_ci_high
    assert (row.patients, mean, low, high) == (4, pytest.approx(0.7), None, None)
    assert subgroups([result(name) for name in "ABCDE"])["lesion volume"]["1-5 mL"].dice_ci_low is not None


def test_an_empty_subgroup_has_no_numbers(result):
    row = subgroups([result("A")])["lesion volume"][">20 mL"].model_dump()
    assert row.pop("patients") == row.pop("scans") == 0
    assert set(row.values()) == {None}


def test_lesion_free_scans_are_in_no_subgroup(result, free):
    found = subgroups([result("A", site="X", scanner="S"), free("B", site="X", scanner="S", truth_ml=0.0)])
    assert counts(found["lesion volume"]) == dict.fromkeys(VOLUMES, (0, 0)) | {"1-5 mL": (1, 1)}
    assert counts(found["site"]) == {"X": (1, 1)}


def test_subgroups_are_the_known_sites_and_scanners(result):
    scans = [result("A", site="X"), result("A", site="X"), result("B", site="Y", scanner="S"), result("C")]
    found = subgroups(scans)
    assert counts(found["site"]) == {"X": (1, 2), "Y": (1, 1)}
    assert counts(found["scanner"]) == {"S": (1, 1)}


def test_scans_without_a_voxel_size_are_in_no_volume_but_at_their_site(result):
    found = subgroups([result("A", truth_ml=None, predicted_ml=None, site="X")])
    assert sum(row.scans for row in found["lesion volume"].values()) == 0
    assert found["site"]["X"].dice_mean == 0.7
    assert found["site"]["X"].absolute_volume_difference_ml_mean is None


def test_lesion_free_scans_are_counted_apart(result, free):
    scans = [result("A"), free("B"), free("B", predicted_ml=0.4, false_lesions=2), free("C")]
    assert lesion_free(scans).model_dump() == {
        "patients": 2, "scans": 3, "scans_with_false_lesion": 1, "false_positive_ml_mean": pytest.approx(0.4 / 3),
    }  # fmt: skip


def test_without_lesion_free_scans_all_counts_are_zero(result):
    assert lesion_free([result("A")]).model_dump() == {
        "patients": 0, "scans": 0, "scans_with_false_lesion": 0, "false_positive_ml_mean": None,
    }  # fmt: skip
