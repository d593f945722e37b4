"""The page that people judge a model by."""

import html
import re

import cv2
import numpy as np
import pytest

from components.artifacts.evaluation import Comparison, Difference, ScanResult, VolumeAgreement
from components.artifacts.trained_model import TrainedModel, VolumeInterval
from components.core.html_page import embedded
from components.evaluate.agreement import calibration_errors
from components.evaluate.calibration_error import reliability
from components.evaluate.evaluate import collect_metrics
from components.evaluate.metrics import case_metrics, slice_dices
from components.evaluate.plots import draw_agreement, draw_reliability
from components.evaluate.report import Pictures, write_page
from components.scans.viewer.page import Viewer
from tests.support.scan_results import scan_result

ALONE = Comparison(champion=None, model=None, reason="there was no champion to compare with")
TRAINED = TrainedModel.model_construct(
    threshold=0.35, temperature=1.5, volume_interval=VolumeInterval(level=0.9, cube_root_ml=0.3, patients=5)
)


def measured(name: str, shift: int = 2, voxel_mm=(2.0, 2.0, 5.0), **fields) -> ScanResult:
    """A scan with a lesion of 4 x 4 pixels, and a prediction `shift` pixels beside it."""
    truth = np.zeros((10, 10, 3), bool)
    truth[2:6, 2:6, 1] = True
    predicted = np.roll(truth, shift, axis=0)
    slice_dice, slice_iou = slice_dices(predicted, truth)
    found = {
        **case_metrics(predicted, truth, voxel_mm),
        "rule_dice": 0.4, "rule_lesion_f1": 0.6, "rule_ml": 0.5,
        "slice_dice": slice_dice.tolist(), "slice_iou": slice_iou.tolist(),
        "slice_has_lesion": truth.any((0, 1)).tolist(), "slice_has_prediction": predicted.any((0, 1)).tolist(),
    }  # fmt: skip
    return scan_result(name, **(found | fields))


@pytest.fixture
def page_of(tmp_path):
    """page_of(names or scans): the page about them; `fields` go to `measured`; `counted` voxels have a probability."""

    def run(
        scans: list,
        samples=(),
        failures=(),
        synthetic=False,
        comparison=ALONE,
        trained=TRAINED,
        counted=2,
        folds=(),
        **fields,
    ) -> str:
        results = [scan if isinstance(scan, ScanResult) else measured(scan, **fields) for scan in scans]
        truth = np.array([True, False])[:counted]
        bins = np.stack([reliability(np.array(p)[:counted], truth) for p in ((0.9, 0.4), (0.8, 0.3))])
        metrics = collect_metrics(results, bins, trained, synthetic)
        of_folds = {f"fold-{n}": collect_metrics(part, bins, TRAINED, synthetic) for n, part in enumerate(folds, 1)}
        pictures = Pictures(list(samples), dict(failures))
        with Viewer() as viewer:
            write_page(metrics, trained, comparison, pictures, viewer, tmp_path / "page.html", of_folds)
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


def test_an_unknown_volume_is_a_question_mark_with_an_explanation(page_of):
    page = page_of(["P1"], voxel_mm=None)
    assert '<td class="n">?</td>' in page
    assert "missing for 1 scans: their files hold no voxel size" in page
    assert part(page, "Are the volumes correct?").endswith(
        "The voxel sizes are unknown, so there are no volumes in mL."
    )


def test_the_page_loads_nothing_from_elsewhere(page_of, sample):
    page = page_of(["P1"], [sample])
    sources = re.findall(r"""(?:src|href)\s*=\s*["'](.{15})""", page)
    assert sources == ["data:image/png;", "data:image/png;", "data:image/jpeg"]
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def test_ten_samples_and_two_plots_are_all_on_the_page(page_of, sample):
    assert page_of(["P1"], [sample] * 10).count("<img") == 12


@pytest.mark.slow
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


def test_the_page_marks_synthetic_scans(page_of):
    assert "Synthetic demo scans" in page_of(["P1"], synthetic=True)
    assert "ynthetic" not in page_of(["P1"], synthetic=False)


def test_the_page_warns_of_too_few_patients(page_of):
    assert "too few to conclude" in page_of([f"P{i}" for i in range(9)])
    assert "too few to conclude" not in page_of([f"P{i}" for i in range(10)])


def test_every_subgroup_shows_its_counts_and_too_few_patients(page_of):
    scans = [measured(f"P{i}", site="Chiang Mai" if i else "Bangkok") for i in range(6)]
    text = part(page_of(scans), "Results by subgroup")
    assert re.search(r"<1 mL|&lt;1 mL 6 6 0\.500 0\.\d+ to 0\.\d+ 1\.000 0\.00", text)
    assert "Bangkok 1 1 0.500 too few patients" in text
    assert re.search(r"Chiang Mai 5 5 0\.500 0\.\d+ to 0\.\d+", text)
    assert "&gt;20 mL 0 0 – – – –" in text
    assert "The scanner is unknown for all test scans with a lesion." in text


def test_lesion_free_scans_have_a_section_of_their_own(page_of):
    quiet = measured("Q", lesions=0, false_lesions=1, truth_ml=0.0, predicted_ml=0.4)
    text = part(page_of(["P1", quiet]), "Scans without a lesion")
    assert "1 scan of 1 patient: a false lesion in 1 of 1 , 0.40 mL a scan" in text
    assert "None among the test scans" in part(page_of(["P1"]), "Scans without a lesion")


def test_the_page_shows_calibration_errors_and_their_voxels(page_of):
    text = part(page_of(["P1"]), "Are the probabilities correct?")
    assert "error 0.250 before and 0.250 after calibration (temperature 1.50" in text
    assert "with a probability of 0.01 or more" in text
    assert "No voxel of the test scans" in part(page_of(["P1"], counted=0), "Are the probabilities correct?")


def test_the_page_compares_volume_intervals_with_the_truth(page_of):
    scans = [measured(f"P{i}", predicted_ml_low=0.2, predicted_ml_high=0.4 if i else 0.3) for i in range(4)]
    text = part(page_of(scans), "Are the volumes correct?")
    assert "+0.00 mL on average over 4 patients" in text
    assert "in 90 % of patients; here it did in 75 % of 4 patients" in text


def test_the_page_compares_flagged_scans_with_failures(page_of):
    flagged = {"needs_review": ["noisy"]}
    scans = [measured("A", shift=5, **flagged), measured("B", shift=5), measured("C", **flagged), "D", "E"]
    text = part(page_of(scans), "Are failures flagged")
    assert "2 of 5 scans flagged" in text
    for words in ("Of the 2 that failed, 1 had", "Of the 2 flagged, 1 failed", "Of the 3 not flagged, 1 failed"):
        assert words in text


def test_failures_are_shown_by_name_the_worst_first(page_of):
    scans = ["fine", measured("bad", shift=3), measured("worst", shift=5, needs_review=["noisy"])]
    page = page_of(scans, failures={"worst": "data:image/jpeg;base64,AAAA"})
    text = part(page, "Failures, the worst first")
    assert text.index("worst : Dice 0.00") < text.index("bad : Dice 0.25")
    assert "0.32 mL true, 0.32 mL found; flagged: noisy" in text
    assert page.count("data:image/jpeg;base64,AAAA") == 1
    assert "fine" not in text


def test_the_page_shows_that_nothing_failed(page_of):
    assert part(page_of(["P1"]), "Failures") == "Failures None."


def test_the_page_shows_the_smallest_lesion_that_is_kept(page_of):
    def page(**smallest) -> str:
        return " ".join(page_of(["P"], trained=TRAINED.model_copy(update=smallest)).split())

    assert "smaller than 0.05 mL are dropped" in page(smallest_lesion_ml=0.05)
    assert "smaller than 20 voxels" in page(smallest_lesion_voxels=20)
    assert "are dropped" not in page(smallest_lesion_ml=0)


def test_the_page_compares_the_model_with_the_champion(page_of):
    difference = Difference(mean=-0.012, ci_low=-0.031, ci_high=0.006)
    pairs = {"dice": {"P1": (0.5, 0.5), "P2": (0.4, 0.5)}}
    page = page_of(["P1"], comparison=Comparison(
        champion="3", model="m", reason="", pairs=pairs, differences={"dice": difference},
    ))  # fmt: skip
    assert part(page, "Comparison with the champion, version 3").endswith("Dice, all patients 2 -0.012 -0.031 to 0.006")


def test_the_page_explains_a_missing_comparison(page_of):
    assert "This comparison cannot support a promotion: there was no champion to compare with." in page_of(["P1"])


def test_the_page_says_research_use_only(page_of):
    assert "Research use only. Not a medical device." in page_of(["P1"])


@pytest.mark.parametrize("patients", [1, 40])
def test_plots_are_pictures_of_few_and_of_many(patients):
    rng = np.random.default_rng(0)
    pairs = {str(i): (float(t), float(p)) for i, (t, p) in enumerate(rng.exponential(20, (patients, 2)))}
    low, high = (-2.0, 4.0) if patients > 1 else (None, None)
    volume = VolumeAgreement(
        bias_ml=1.0, agreement_low_ml=low, agreement_high_ml=high, interval_level=None, interval_coverage=None
    )
    voxels = reliability(rng.random(patients), rng.random(patients) < 0.5)
    for picture in (draw_agreement(pairs, volume), draw_reliability(calibration_errors(voxels, voxels, None))):
        assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape[1] == 540


def summary_part(page: str) -> str:
    """The words before the first heading of a section."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.split("<h2>")[0]).split())


def test_the_page_begins_with_the_dice_where_there_is_a_lesion_and_the_false_alarms(page_of):
    quiet = measured("Q", lesions=0, false_lesions=1, truth_ml=0.0, dice=0.0)
    text = summary_part(page_of([*(f"P{i}" for i in range(5)), quiet]))
    assert re.search(r"Where there is a lesion, Dice 0\.500 \(95 % interval 0\.\d+ to 0\.\d+\) ;", text)
    assert "where there is none, a false alarm in 100 % of 1 patient." in text
    assert "no test patient is free of lesions" in summary_part(page_of(["P1"]))
    assert "Dice 0.500 (no interval: fewer than 5 patients)" in summary_part(page_of(["P1"]))
    assert "No test patient has a lesion" in summary_part(page_of([quiet]))


def test_the_page_begins_with_a_model_that_is_not_better_than_the_rule(page_of):
    text = "Not better than a threshold rule without a network: Dice 0.500 against 0.600."
    worse = page_of([measured("P1", rule_dice=0.6)])
    words = summary_part(worse)
    assert words.index(text) < words.index("Where there is a lesion")
    assert text in part(worse, "Comparison with a rule")
    better = page_of([measured("P1", rule_dice=0.4)])
    assert "Not better" not in better
    assert "Better than a threshold rule without a network: Dice 0.500 against 0.400." in part(
        better, "Comparison with a rule"
    )


def test_the_page_compares_the_model_with_the_rule(page_of):
    text = part(page_of(["P1"]), "Comparison with a rule")
    assert "1.8 times as bright as the median of the head, smoothed by 1.0 mm, in pieces of at least 0.1 mL" in text
    assert "Dice, all patients 0.500 0.400" in text
    assert "Lesion F1, any touch (ISLES'22) 1.000 0.600" in html.unescape(text)


def test_the_summary_has_median_and_quartiles_and_no_interval_of_few(page_of):
    shifts = {"P1": 0, "P2": 2, "P3": 3}  # Dice 1, 0.5, 0.25
    text = part(page_of([measured(name, shift) for name, shift in shifts.items()]), "Summary over patients")
    assert "Dice, all patients 0.583 0.312 – 0.500 0.375 to 0.750" in text
    assert "No interval below 5 patients" in text


def test_of_a_cross_validation_it_says_how_the_numbers_were_obtained_and_shows_each_fold(page_of):
    folds = [[measured("A"), measured("B", 0)], [measured("C"), measured("D")], [measured("E", 0), measured("F")]]
    ensemble = TRAINED.model_copy(update={"networks": [TRAINED] * 3, "threshold": 0.4})
    page = page_of([scan for fold in folds for scan in fold], trained=ensemble, folds=folds)
    assert "These numbers are out-of-fold: of 3 networks" in page
    assert "never tested itself" in page
    table = part(page, "Results by fold")
    assert re.findall(r"fold-\d", table) == ["fold-1", "fold-2", "fold-3"]
    assert "0.35" in table, "each network has its own threshold"
    assert "mean of the networks" in part(page, "Are the probabilities correct?")


def test_of_one_split_it_shows_no_folds(page_of):
    page = page_of(["A", "B"])
    assert "Results by fold" not in page and "out-of-fold" not in page
