"""What a run says in the terminal."""

import pytest

from pipelines.summary import links, show
from tests.support import measured


@pytest.fixture
def shown(capsys, tmp_path):
    """shown(test_dice_mean=0.4, ...): the lines about a version with these numbers changed."""

    def run(synthetic: bool = False, **changes) -> list[str]:
        numbers = measured.metrics()["summary"] | changes
        show({
            "metrics": {name: value for name, value in numbers.items() if value is not None},
            "model": {"name": "m", "version": "3", "aliases": "challenger"}, "decision": "the champion stays",
            "steps": {"train": {"cached": False}}, "new_version": True, "synthetic": synthetic, "wall_seconds": 61,
            "links": {}, "patients": 60, "settings": {"test_ratio": 0.2},
        }, tmp_path)  # fmt: skip
        return capsys.readouterr().out.splitlines()

    return run


def test_the_headline_is_of_patients_with_a_lesion_and_the_rule_has_a_line(shown):
    lines = shown()
    dice = lines.index("  Dice with a lesion 0.680 (95 % interval 0.580 to 0.780)")
    assert dice < lines.index("  Dice, all patients 0.700 (95 % interval 0.600 to 0.800)")
    assert "  rule, no network   Dice 0.470 (95 % interval 0.370 to 0.570)" in lines
    assert "  lesion F1, matched 0.650 (95 % interval 0.550 to 0.750)" in lines
    assert "  false alarms       in 0 of 1 without a lesion" in lines


def test_a_model_that_is_not_better_than_the_rule_says_so_in_the_first_line(shown):
    first = next(filter(None, shown(test_dice_mean=0.41, test_better_than_rule=0.0)))
    assert first == "Not better than a threshold rule without a network: Dice 0.410 against 0.470."
    assert "Not better" not in " ".join(shown())


def test_of_few_patients_no_interval_is_shown(shown):
    lines = shown(test_lesion_dice_ci_low=None, test_lesion_dice_ci_high=None)
    assert "  Dice with a lesion 0.680 (no interval: fewer than 5 patients)" in lines


def test_it_says_what_the_patients_can_show_with_the_spread_of_this_run(shown):
    text = "\n".join(shown(test_dice_std=0.1))
    assert "what these patients can show, with a standard deviation of Dice of 0.10 (of this run):" in text
    assert "test of 12: mean Dice within ±0.06 (95 %)" in text and "FOLDS=5, test of all 60" in text
    assert "promotion: 12 test patients are enough for the policy" in text
    assert "promotion:" not in "\n".join(shown(synthetic=True))


def test_of_few_patients_the_spread_is_assumed(shown):
    assert "Dice of 0.25 (assumed):" in "\n".join(shown(test_patients=3, test_dice_std=0.01))


def test_it_says_where_programs_find_it(shown, tmp_path):
    assert f"  61 s in all; summary in {tmp_path}/last-run.json" in shown()


def test_an_older_run_without_the_rule_is_shown_all_the_same(shown):
    old = dict.fromkeys(("test_rule_dice_mean", "test_better_than_rule", "test_lesion_free_false_alarm_rate"))
    assert not [line for line in shown(**old) if "rule" in line or "alarm" in line]


def test_links_open_the_pages_of_model_training():
    found = links("http://127.0.0.1:5000/", "1", "abc", "m", "3")
    assert found == {
        "runs": "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=dwi-stroke&workflowType=machine_learning",
        "run": "http://127.0.0.1:5000/#/experiments/1/runs/abc?workflowType=machine_learning",
        "model": "http://127.0.0.1:5000/#/models/m/versions/3?workflowType=machine_learning",
    }


def test_the_numbers_of_a_cross_validation_are_called_out_of_fold(shown):
    assert any("out-of-fold: of 5 networks" in line for line in shown(test_folds=5.0))
    assert not any("out-of-fold" in line for line in shown())


def test_with_folds_no_number_of_patients_is_named_for_a_single_split(shown):
    few = {"test_patients": 6}
    assert "patients with this split" in "\n".join(shown(**few))
    assert "patients with this split" not in "\n".join(shown(test_folds=3.0, **few))
