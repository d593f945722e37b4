"""Each preset against baseline: by hand, against scipy, and what is not compared."""

import numpy as np
import pytest
from scipy import stats

from components.registry.run_records import TRAINING_COST
from pipelines.experiments.compare import SAME, compare, difference, notes, verdict, why_not_comparable

MINIMUM = 10


def dice(comparison: dict, preset: str) -> dict:
    return comparison["presets"][preset]["metrics"]["dice"]


def test_two_patients_and_two_seeds_worked_by_hand(result):
    comparison, left_out = compare(
        [
            result("baseline", 1, {"p1": 0.5, "p2": 0.7}),
            result("n4", 1, {"p1": 0.6, "p2": 0.9}),
            result("baseline", 2, {"p1": 0.3, "p2": 0.7}),
            result("n4", 2, {"p1": 0.6, "p2": 0.5}),
        ],
        MINIMUM,
    )
    assert left_out == []
    baseline, n4 = dice(comparison, "baseline"), dice(comparison, "n4")
    assert baseline["patients"] == pytest.approx({"p1": 0.4, "p2": 0.7}) and baseline["mean"] == pytest.approx(0.55)
    assert baseline["seeds"] == pytest.approx({"1": 0.6, "2": 0.5}) and "difference" not in baseline
    assert n4["mean"] == pytest.approx(0.65) and n4["seeds"] == pytest.approx({"1": 0.75, "2": 0.55})
    found = n4["difference"]
    assert found["patients"] == pytest.approx({"p1": 0.2, "p2": 0.0}) and found["mean"] == pytest.approx(0.1)
    assert (found["ci_low"], found["ci_high"]) == (None, None)
    assert found["seeds"] == [1, 2] and found["verdict"] == "too few patients to tell (2 of 10)"


def test_a_patients_scans_are_one_value(result):
    scans = [
        {"case": f"p1 {d}", "patient": "p1", "dice": d, "lesion_f1": 1, "absolute_volume_difference_ml": 1}
        for d in (0.2, 0.6)
    ]
    comparison, _ = compare([result(cases=scans)], MINIMUM)
    assert dice(comparison, "baseline")["patients"] == pytest.approx({"p1": 0.4})


def test_the_interval_is_nearly_that_of_the_paired_t_test(result):
    rng = np.random.default_rng(5)
    old = rng.beta(4, 2, 30)
    new = np.clip(old + rng.normal(0.02, 0.05, 30), 0, 1)
    runs = [
        result(name, 1, {f"p{i}": float(v) for i, v in enumerate(values)})
        for name, values in (("baseline", old), ("n4", new))
    ]
    found = dice(compare(runs, MINIMUM)[0], "n4")["difference"]
    theirs = stats.ttest_rel(new, old).confidence_interval(0.95)
    ours = (found["ci_low"], found["ci_high"])
    assert found["mean"] == pytest.approx(float((new - old).mean()))
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.06 * (theirs.high - theirs.low))


@pytest.mark.parametrize(
    ("interval", "patients", "better", "says"),
    [
        ((-0.1, 0.2), 50, 1, SAME),
        ((0.0, 0.2), 50, 1, SAME),
        ((0.01, 0.2), 50, 1, "better"),
        ((-0.2, -0.01), 50, 1, "worse"),
        ((0.01, 0.2), 50, -1, "worse"),
        ((-0.2, -0.01), 50, -1, "better"),
        ((0.01, 0.2), 9, 1, "too few patients to tell (9 of 10)"),
        ((-0.2, -0.01), 9, 1, "too few patients to tell (9 of 10)"),
        ((-0.1, 0.2), 9, 1, SAME),
        ((None, None), 5, 1, "too few patients to tell (5 of 10)"),
    ],
)
def test_what_a_difference_says(interval, patients, better, says):
    assert verdict(*interval, patients, better, 10) == says


def test_a_preset_that_is_better_for_every_patient_wins_on_enough_of_them_and_on_no_fewer(result):
    for count, says in ((10, "better"), (9, "too few patients to tell (9 of 10)")):
        old = {f"p{i}": i / 20 for i in range(count)}
        new = {patient: value + 0.1 for patient, value in old.items()}
        comparison, _ = compare([result(dice=old), result("n4", dice=new)], MINIMUM)
        assert dice(comparison, "n4")["difference"]["verdict"] == says


def test_only_seeds_that_both_have_are_compared(result):
    runs = [result(seed=1, dice={"p1": 0.5}), result("n4", 1, {"p1": 0.6}), result(seed=2, dice={"p1": 0.9})]
    comparison, _ = compare(runs, MINIMUM)
    found = dice(comparison, "n4")["difference"]
    assert found["seeds"] == [1] and found["mean"] == pytest.approx(0.1)
    assert dice(comparison, "baseline")["mean"] == pytest.approx(0.7)
    assert "n4: the difference is over the seeds that both have, 1." in notes(comparison)


def test_without_a_seed_or_patient_in_common_there_is_no_difference():
    assert difference({1: {"p1": 0.5}}, {2: {"p1": 0.5}}, 1, 10) is None
    assert difference({1: {"p1": 0.5}}, {1: {"p2": 0.5}}, 1, 10) is None


def test_a_metric_that_no_scan_has_is_left_out(result):
    scans = [{"case": "p1", "patient": "p1", "dice": 0.5, "lesion_f1": 1.0, "absolute_volume_difference_ml": None}]
    comparison, _ = compare([result(cases=scans), result("n4", cases=scans)], MINIMUM)
    assert comparison["presets"]["n4"]["metrics"].keys() == {"dice", "lesion_f1"}


def test_the_cost_is_the_mean_over_seeds_and_unknown_where_no_run_knows_it(result):
    runs = [
        result(seed=1, dice={"p1": 0.5}),
        result(seed=2, dice={"p1": 0.5}, training_seconds=20.0, run_seconds=None),
        result("n4", 1, {"p1": 0.5}, training_seconds=None, run_seconds=None),
    ]
    presets = compare(runs, MINIMUM)[0]["presets"]
    assert [presets["baseline"][name] for name in (TRAINING_COST[0], "run_seconds")] == [15.0, 30.0]
    assert [presets["n4"][name] for name in (TRAINING_COST[0], "run_seconds")] == [None, None]


def test_another_data_version_is_refused(result):
    runs = [result(dice={"p1": 0.5}), result("n4", dice={"p1": 0.5}, data_version="d2")]
    comparison, (refused,) = compare(runs, MINIMUM)
    assert (refused.preset, refused.seed) == ("n4", 42)
    assert refused.reason == "it has other data (version d2, baseline's d1)"
    assert comparison["presets"].keys() == {"baseline"}


def test_a_run_that_learnt_from_baselines_test_patients_is_refused(result):
    baseline = result(dice={"p1": 0.5, "p2": 0.5}, train=["t1"])
    learnt = result(seed=43, dice={"p3": 0.5, "p2": 0.4}, train=["p1"])
    assert why_not_comparable(learnt, baseline) == (
        "it has other test patients: it was trained or tuned on 1 of baseline's 2"
    )
    tuned = result(seed=43, dice={"p3": 0.5}, val=["p1", "p2"])
    assert "it was trained or tuned on 2 of baseline's 2" in why_not_comparable(tuned, baseline)


def test_a_run_whose_test_patients_baseline_learnt_from_is_refused(result):
    baseline = result(dice={"p1": 0.5}, train=["t1", "t2"])
    run = result("adc", dice={"p1": 0.5, "t2": 0.5})
    assert "baseline was trained or tuned on 1 of its own 2" in why_not_comparable(run, baseline)


def test_where_patients_are_missing_the_two_are_compared_on_those_that_both_have_and_it_is_said(result):
    baseline = result(dice={"p1": 0.5, "p2": 0.1, "p3": 0.3}, train=["t1", "t2"])
    adc = result("adc", dice={"p1": 0.7, "p3": 0.4}, train=["t1"])
    comparison, left_out = compare([baseline, adc], MINIMUM)
    assert left_out == []
    assert dice(comparison, "adc")["difference"]["patients"] == pytest.approx({"p1": 0.2, "p3": 0.1})
    assert "adc: on the 2 scans of 2 of 3 test patients that both have." in notes(comparison)


def test_without_a_test_patient_in_common_a_run_is_refused(result):
    reason = why_not_comparable(result("adc", dice={"p9": 0.7}), result(dice={"p1": 0.5}))
    assert reason == "it has no test patient in common with baseline"


def test_baselines_own_later_seeds_are_held_to_the_same(result):
    runs = [result(seed=1, dice={"p1": 0.5}), result(seed=2, dice={"p2": 0.5}, train=["p1"])]
    comparison, (refused,) = compare(runs, MINIMUM)
    assert (refused.preset, refused.seed) == ("baseline", 2)
    assert comparison["presets"]["baseline"]["seeds"] == [1]


def test_the_notes_say_how_small_the_sample_is_and_how_many_intervals_there_are(result):
    names = ("baseline", "n4", "loss")
    said = " ".join(notes(compare([result(name, 1, {"p1": 0.5, "p2": 0.5}) for name in names], MINIMUM)[0]))
    assert "2 test patients" in said and "the promotion policy asks for 10. Five or fewer give no" in said
    assert "One seed: nobody knows how much another seed alone would change." in said
    assert "6 intervals at 95 %: about 0.3 of them leave out 0 by chance" in said


def test_where_auto_chose_different_number_formats_the_notes_say_so(result):
    runs = [result(dice={"p1": 0.5}, precision="bfloat16"), result("loss", dice={"p1": 0.5}, precision="float32")]
    assert "different number formats (bfloat16, float32" in " ".join(notes(compare(runs, MINIMUM)[0]))
    assert "alike" not in " ".join(notes(compare(runs[:1], MINIMUM)[0]))


def test_on_enough_patients_it_does_not_say_that_they_are_few(result):
    runs = [result(seed=seed, dice={f"p{i}": 0.5 for i in range(10)}) for seed in (1, 2)]
    said = " ".join(notes(compare(runs, MINIMUM)[0]))
    assert "policy" not in said and "2 seeds" in said


def test_a_patient_is_compared_on_the_scans_that_both_have(result):
    """Baseline has both sessions of p1, the preset the first one alone: 0.5 less 0.4, not less their mean of 0.6."""

    def scans(**dices: float) -> list[dict]:
        known = {"lesion_f1": 1.0, "absolute_volume_difference_ml": 1.0}
        return [{"case": name, "patient": name[:2], "dice": dice, **known} for name, dice in dices.items()]

    baseline = result(cases=scans(p1a=0.4, p1b=0.8, p2=0.5))
    adc = result("adc", cases=scans(p1a=0.5, p2=0.5))
    comparison, _ = compare([baseline, adc], 2)
    assert comparison["presets"]["adc"]["metrics"]["dice"]["difference"]["patients"] == {
        "p1": pytest.approx(0.1), "p2": 0.0,
    }  # fmt: skip
    assert "adc: on the 2 scans of 2 of 2 test patients that both have." in notes(comparison)
