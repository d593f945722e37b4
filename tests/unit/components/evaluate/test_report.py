"""The page that people judge a model by."""

import html
import re

import cv2
import numpy as np
import pytest

from components.core.html_page import embedded
from components.evaluate.agreement import calibration, review, scalars, volume_agreement
from components.evaluate.metrics import case_metrics, slice_dices, summary
from components.evaluate.plots import draw_agreement, draw_reliability
from components.evaluate.report import Pictures, write_page
from components.evaluate.subgroups import lesion_free, strata
from components.evaluate.threshold_rule_score import yardstick
from components.model.calibration import reliability

ALONE = {"champion": None, "model": None, "reason": "there was no champion to compare with"}
FACTS = {"temperature": 1.5, "volume_interval": {"level": 0.9, "cube_root_ml": 0.3}}


def measured(name: str, shift: int = 2, voxel_mm=(2.0, 2.0, 5.0), **more) -> dict:
    """A scan with a lesion of 4 x 4 pixels, predicted so many pixels beside it."""
    truth = np.zeros((10, 10, 3), bool)
    truth[2:6, 2:6, 1] = True
    predicted = np.roll(truth, shift, axis=0)
    slice_dice, slice_iou = slice_dices(predicted, truth)
    return {
        "case": name,
        "patient": name,
        "site": None,
        "scanner": None,
        **case_metrics(predicted, truth, voxel_mm),
        "predicted_ml_low": None,
        "predicted_ml_high": None,
        "needs_review": [],
        "rule_dice": 0.4,
        "rule_lesion_f1": 0.6,
        "rule_ml": 0.5,
        "slice_dice": slice_dice.tolist(),
        "slice_iou": slice_iou.tolist(),
        "slice_has_lesion": truth.any((0, 1)).tolist(),
        "slice_has_prediction": predicted.any((0, 1)).tolist(),
        **more,
    }


@pytest.fixture
def page_of(tmp_path):
    """page_of(names or scans): the page about them; `more` goes to `measured`, `counted` voxels have a probability."""

    def run(
        scans: list, samples=(), failures=(), synthetic=False, comparison=ALONE, facts=FACTS, counted=2, **more
    ) -> str:
        cases = [scan if isinstance(scan, dict) else measured(scan, **more) for scan in scans]
        truth = np.array([True, False])[:counted]
        bins = [reliability(np.array(p)[:counted], truth) for p in ((0.9, 0.4), (0.8, 0.3))]
        trust = {
            "calibration": calibration(*bins, facts),
            "volume": volume_agreement(cases, facts),
            "review": review(cases),
        }
        found = {
            "summary": summary(cases) | yardstick(cases) | scalars(**trust), "threshold": 0.35,
            "synthetic": synthetic, "cases": cases,
            "strata": strata(cases), "lesion_free": lesion_free(cases), **trust,
        }  # fmt: skip
        write_page(found, facts, comparison, Pictures(list(samples), dict(failures)), tmp_path / "page.html")
        return (tmp_path / "page.html").read_text()

    return run


@pytest.fixture
def noisy(tmp_path):
    """Ten pictures of the size of samples that hardly compress."""
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), np.random.default_rng(i).integers(0, 255, (272, 720, 3), np.uint8))
    return paths


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample.png"
    cv2.imwrite(str(path), np.zeros((272, 720, 3), np.uint8))
    return path


def part(page: str, heading: str) -> str:
    """The words of a section."""
    (section,) = [s for s in page.split("<h2>")[1:] if s.startswith(heading)]
    return " ".join(re.sub(r"<[^>]+>", " ", section).split())


def test_the_page_holds_every_scan_its_metrics_and_the_threshold(page_of):
    interval = {"predicted_ml_low": 0.1, "predicted_ml_high": 0.75}
    page = page_of([measured("P1", **interval, needs_review=["noisy", "5 slices"]), "P2"])
    rows = re.findall(r"<tr><td>(P\d)</td>(.*?)</tr>", page, re.DOTALL)
    assert [name for name, _ in rows] == ["P1", "P2"]
    shown = ["0.500", "0.400", "0.32", "0.32", "0.10 to 0.75", "1 of 1", "0", "1.000", "1.000", "noisy; 5 slices"]
    assert re.findall(r">([^<>\n]+)</td>", rows[0][1]) == shown
    assert "threshold 0.35" in page


def test_a_volume_that_is_not_known_is_a_question_mark_and_the_page_says_why(page_of):
    page = page_of(["P1"], voxel_mm=None)
    assert '<td class="n">?</td>' in page
    assert "missing for 1 scans: their files hold no voxel size" in page
    assert part(page, "Are the volumes true?").endswith("No voxel size is known, so no volume in mL.")


def test_the_page_loads_nothing_from_elsewhere(page_of, sample):
    page = page_of(["P1"], [sample])
    sources = re.findall(r"""(?:src|href)\s*=\s*["'](.{15})""", page)
    assert sources == ["data:image/png;", "data:image/png;", "data:image/jpeg"]
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def test_ten_samples_and_two_plots_are_all_on_the_page(page_of, sample):
    assert page_of(["P1"], [sample] * 10).count("<img") == 12


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["P", "<" * 200], ids=["plain", "long names that grow when escaped"])
@pytest.mark.parametrize("shift", [0, 5], ids=["all right", "all failed"])
def test_the_page_stays_under_one_megabyte_however_much_there_is_to_show(page_of, noisy, name, shift):
    names = [f"{name}{i}" for i in range(600)]
    thumbnail = embedded(noisy[0].read_bytes()[:90_000])
    page = page_of(names, noisy, {n: thumbnail for n in names[:12]}, shift=shift, needs_review=["a reason" * 10] * 3)
    assert len(page.encode()) < 1_000_000


def test_names_that_carry_html_are_shown_and_not_run(page_of):
    bad = '<img src=x onerror="alert(1)">'
    page = page_of([measured(bad, shift=5, site=bad, scanner=bad, needs_review=[bad])])
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt;") == 6


def test_the_page_says_that_the_scans_are_synthetic_where_they_are(page_of):
    assert "Synthetic demo scans" in page_of(["P1"], synthetic=True)
    assert "ynthetic" not in page_of(["P1"], synthetic=False)


def test_the_page_says_that_few_patients_are_too_few(page_of):
    assert "too few to conclude" in page_of([f"P{i}" for i in range(9)])
    assert "too few to conclude" not in page_of([f"P{i}" for i in range(10)])


def test_every_stratum_says_how_many_it_holds_and_when_they_are_too_few(page_of):
    scans = [measured(f"P{i}", site="Chiang Mai" if i else "Bangkok") for i in range(6)]
    said = part(page_of(scans), "For whom it works")
    assert re.search(r"<1 mL|&lt;1 mL 6 6 0\.500 0\.\d+ to 0\.\d+ 1\.000 0\.00", said)
    assert "Bangkok 1 1 0.500 too few patients" in said
    assert re.search(r"Chiang Mai 5 5 0\.500 0\.\d+ to 0\.\d+", said)
    assert "&gt;20 mL 0 0 – – – –" in said
    assert "The scanner is not known of any test scan with a lesion." in said


def test_lesion_free_scans_have_a_section_of_their_own(page_of):
    quiet = measured("Q") | {"lesions": 0, "false_lesions": 1, "truth_ml": 0.0, "predicted_ml": 0.4}
    said = part(page_of(["P1", quiet]), "Scans without a lesion")
    assert "1 scan of 1 patient: a lesion was found where none is in 1 of 1 , 0.40 mL a scan" in said
    assert "None among the test scans" in part(page_of(["P1"]), "Scans without a lesion")


def test_calibration_is_told_with_the_voxels_that_it_is_of(page_of):
    said = part(page_of(["P1"]), "Are the probabilities true?")
    assert "error 0.250 as the network says it, 0.250 after calibration (temperature 1.50" in said
    assert "to which the network gives 0.01 or more" in said
    assert "No voxel of the test scans" in part(page_of(["P1"], counted=0), "Are the probabilities true?")


def test_the_volumes_interval_is_held_against_the_truth(page_of):
    scans = [measured(f"P{i}", predicted_ml_low=0.2, predicted_ml_high=0.4 if i else 0.3) for i in range(4)]
    said = part(page_of(scans), "Are the volumes true?")
    assert "+0.00 mL on average over 4 patients" in said
    assert "in 90 % of patients; here it did in 75 % of 4 patients" in said


def test_the_calls_for_review_are_held_against_the_failures(page_of):
    flagged = {"needs_review": ["noisy"]}
    scans = [measured("A", shift=5, **flagged), measured("B", shift=5), measured("C", **flagged), "D", "E"]
    said = part(page_of(scans), "Does it know")
    assert "2 of 5 scans flagged" in said
    for words in ("Of the 2 that failed, 1 had", "Of the 2 flagged, 1 failed", "Of the 3 not flagged, 1 failed"):
        assert words in said


def test_failures_are_shown_by_name_the_worst_first(page_of):
    scans = ["fine", measured("bad", shift=3), measured("worst", shift=5, needs_review=["noisy"])]
    page = page_of(scans, failures={"worst": "data:image/jpeg;base64,AAAA"})
    said = part(page, "Failures, the worst first")
    assert said.index("worst : Dice 0.00") < said.index("bad : Dice 0.25")
    assert "0.32 mL true, 0.32 mL found; flagged: noisy" in said
    assert page.count("data:image/jpeg;base64,AAAA") == 1
    assert "fine" not in said


def test_where_nothing_failed_that_is_said(page_of):
    assert part(page_of(["P1"]), "Failures") == "Failures None."


def test_the_smallest_lesion_that_is_kept_is_told(page_of):
    assert "smaller than 0.05 mL are dropped" in " ".join(page_of(["P"], facts={"smallest_lesion_ml": 0.05}).split())
    assert "smaller than 20 voxels" in " ".join(page_of(["P"], facts={"smallest_lesion_voxels": 20}).split())
    assert "are dropped" not in page_of(["P"], facts={"smallest_lesion_ml": 0})


def test_the_page_sets_the_model_against_the_champion(page_of):
    difference = {"mean": -0.012, "ci_low": -0.031, "ci_high": 0.006}
    pairs = {"dice": {"P1": [0.5, 0.5], "P2": [0.4, 0.5]}}
    page = page_of(["P1"], comparison={
        "champion": "3", "model": "m", "reason": "", "pairs": pairs, "differences": {"dice": difference},
    })  # fmt: skip
    assert part(page, "Against the champion, version 3").endswith("Dice, all patients 2 -0.012 -0.031 to 0.006")


def test_the_page_says_why_there_is_no_comparison(page_of):
    assert "No ground for a promotion: there was no champion to compare with." in page_of(["P1"])


def test_the_page_says_what_it_is_not(page_of):
    assert "Research use only. Not a medical device." in page_of(["P1"])


@pytest.mark.parametrize("patients", [1, 40])
def test_plots_are_pictures_of_few_and_of_many(patients):
    rng = np.random.default_rng(0)
    pairs = {str(i): (float(t), float(p)) for i, (t, p) in enumerate(rng.exponential(20, (patients, 2)))}
    limits = {"agreement_low_ml": -2.0, "agreement_high_ml": 4.0} if patients > 1 else {}
    volume = {"bias_ml": 1.0, "agreement_low_ml": None, "agreement_high_ml": None} | limits
    voxels = reliability(rng.random(patients), rng.random(patients) < 0.5)
    for picture in (draw_agreement(pairs, volume), draw_reliability(calibration(voxels, voxels, {}))):
        assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape[1] == 540


def summary_part(page: str) -> str:
    """The words before the first heading of a section."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.split("<h2>")[0]).split())


def test_the_page_begins_with_the_dice_where_there_is_a_lesion_and_the_false_alarms(page_of):
    quiet = measured("Q") | {"lesions": 0, "false_lesions": 1, "truth_ml": 0.0, "dice": 0.0}
    said = summary_part(page_of([*(f"P{i}" for i in range(5)), quiet]))
    assert re.search(r"Where there is a lesion, Dice 0\.500 \(95 % interval 0\.\d+ to 0\.\d+\) ;", said)
    assert "where there is none, a false alarm in 100 % of 1 patient." in said
    assert "no test patient is free of lesions" in summary_part(page_of(["P1"]))
    assert "Dice 0.500 (no interval: fewer than 5 patients)" in summary_part(page_of(["P1"]))
    assert "No test patient has a lesion" in summary_part(page_of([quiet]))


def test_a_model_that_is_not_better_than_the_rule_says_so_first(page_of):
    said = "Not better than a threshold rule without a network: Dice 0.500 against 0.600."
    worse = page_of([measured("P1", rule_dice=0.6)])
    words = summary_part(worse)
    assert words.index(said) < words.index("Where there is a lesion")
    assert said in part(worse, "Beside a rule")
    better = page_of([measured("P1", rule_dice=0.4)])
    assert "Not better" not in better
    assert "Better than a threshold rule without a network: Dice 0.500 against 0.400." in part(better, "Beside a rule")


def test_the_page_sets_the_model_beside_the_rule(page_of):
    said = part(page_of(["P1"]), "Beside a rule")
    assert "1.8 times as bright as the median of the head, smoothed by 1.0 mm, in pieces of at least 0.1 mL" in said
    assert "Dice, all patients 0.500 0.400" in said
    assert "Lesion F1, any touch (ISLES'22) 1.000 0.600" in html.unescape(said)


def test_the_summary_has_median_and_quartiles_and_no_interval_of_few(page_of):
    shifts = {"P1": 0, "P2": 2, "P3": 3}  # Dice 1, 0.5, 0.25
    said = part(page_of([measured(name, shift) for name, shift in shifts.items()]), "Summary over patients")
    assert "Dice, all patients 0.583 0.312 – 0.500 0.375 to 0.750" in said
    assert "No interval below 5 patients" in said
