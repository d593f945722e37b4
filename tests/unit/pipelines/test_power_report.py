"""What check-data and the summary of a run say about the number of patients."""

import pytest

from pipelines.power_report import power_report
from pipelines.statistical_power import detectable_difference, half_width


def test_a_small_split_is_told_what_folds_would_give():
    head, split, folds, promotion = power_report(tested=3, patients=60, synthetic=False, test_ratio=0.05)
    assert head == "what these patients can show, with a standard deviation of Dice of 0.25 (assumed):"
    assert split == "  test of 3: no interval; a comparison of two models can show nothing"
    assert f"test of all 60: mean Dice within ±{half_width(60, 0.25):.2f} (95 %)" in folds
    assert f"finds a difference of {detectable_difference(60, 0.25):.2f} (power 80 %)" in folds
    assert promotion == (
        "  promotion: the policy asks for 10 test patients, about 200 patients with this split, so no version can "
        "pass; FOLDS=5 reaches it"
    )


def test_folds_are_no_help_where_all_patients_are_too_few():
    assert power_report(2, 8, False, 0.2)[-1].endswith("; FOLDS=5 does not reach it either")


def test_where_all_patients_are_tested_no_folds_are_named():
    lines = power_report(40, 40, False)
    assert not any("FOLDS" in line for line in lines)
    assert lines[-1] == "  promotion: 40 test patients are enough for the policy, which asks for 10"


def test_the_spread_of_a_result_replaces_the_assumed_one():
    lines = power_report(12, 12, False, spread=0.1)
    assert "0.10 (of this run)" in lines[0] and f"±{half_width(12, 0.1):.2f}" in lines[1]


@pytest.mark.parametrize("synthetic", [True, False])
def test_the_policy_is_for_patients(synthetic):
    assert any("promotion" in line for line in power_report(5, 24, synthetic)) is not synthetic
