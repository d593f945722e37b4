"""The pictures and the page that people judge a model by."""

import re

import cv2
import numpy as np
import pytest

from components.evaluate.figures import Sample, choose_samples, draw_sample, write_page
from components.evaluate.metrics import case_metrics, slice_dices, summary

ALONE = {"champion": None, "model": None, "reason": "there was no champion to compare with"}


def scan(name: str, dices: list[float], lesion: list[bool] | None = None, predicted: list[bool] | None = None) -> dict:
    everywhere = [True] * len(dices)
    return {
        "case": name,
        "slice_dice": dices,
        "slice_has_lesion": everywhere if lesion is None else lesion,
        "slice_has_prediction": everywhere if predicted is None else predicted,
    }


def places(samples: list[Sample]) -> list[tuple[str, int]]:
    return [(s.case, s.slice) for s in samples]


@pytest.mark.parametrize("candidates", range(31))
def test_at_most_ten_different_slices_from_best_to_worst(candidates):
    dices = (np.random.default_rng(candidates).permutation(candidates) / 30).tolist()
    samples = choose_samples([scan("A", dices[: candidates // 2]), scan("B", dices[candidates // 2 :])])
    assert len(samples) == len(set(places(samples))) == min(10, candidates)
    assert [s.dice for s in samples] == sorted((s.dice for s in samples), reverse=True)
    if candidates:
        assert (samples[0].dice, samples[-1].dice) == (max(dices), min(dices))


def test_three_best_four_around_the_median_and_three_worst():
    samples = choose_samples([scan("A", [i / 100 for i in range(101)])])
    assert [s.kind for s in samples] == ["best"] * 3 + ["typical"] * 4 + ["worst"] * 3
    assert [s.dice for s in samples if s.kind == "best"] == [1.0, 0.99, 0.98]
    assert [s.dice for s in samples if s.kind == "worst"] == [0.02, 0.01, 0.0]
    assert all(abs(s.dice - 0.5) <= 0.03 for s in samples if s.kind == "typical")


@pytest.mark.parametrize("candidates", range(3, 11))
def test_where_few_slices_are_there_all_three_kinds_still_are(candidates):
    samples = choose_samples([scan("A", [i / 10 for i in range(candidates)])])
    assert {s.kind for s in samples} == {"best", "typical", "worst"}


def test_a_sample_says_where_it_is_and_its_dice():
    (sample,) = choose_samples([scan("A", [1.0, 0.3], lesion=[False, True], predicted=[False, False])])
    assert (sample.case, sample.slice, sample.dice) == ("A", 1, 0.3)


def test_slices_with_neither_lesion_nor_prediction_are_not_shown():
    one = scan("A", [1.0, 0.0, 0.0, 0.5], lesion=[False, True, False, True], predicted=[False, False, True, True])
    assert set(places(choose_samples([one]))) == {("A", 1), ("A", 2), ("A", 3)}


def test_equal_slices_are_chosen_the_same_way_whatever_the_order_of_the_scans():
    scans = [scan(name, [0.5] * 9) for name in "ABC"]
    assert choose_samples(scans) == choose_samples(scans[::-1])


@pytest.fixture
def slice_of_brain():
    """A slice (X, Y) of 40 x 30 with its true and its predicted lesion."""
    image = np.random.default_rng(0).normal(100, 10, (40, 30)).astype(np.float32)
    truth = np.zeros(image.shape, bool)
    truth[3:9, 20:27] = True
    predicted = np.zeros(image.shape, bool)
    predicted[28:36, 4:10] = True
    return image, truth, predicted


def draw(tmp_path, image, truth, predicted, case: str = "P1") -> np.ndarray:
    path = tmp_path / "sample.png"
    draw_sample(Sample(case, 7, 0.5, "typical"), image, truth, predicted, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def green(picture: np.ndarray) -> np.ndarray:
    """Rows and columns, as shares of the picture, of what the truth is drawn in."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return np.argwhere(green - np.maximum(red, blue) > 30) / picture.shape[:2]


def orange(picture: np.ndarray) -> np.ndarray:
    """The same of the prediction."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return np.argwhere((red - green > 20) & (green - blue > 20)) / picture.shape[:2]


def test_truth_and_prediction_are_drawn_each_in_its_panel(slice_of_brain, tmp_path):
    picture = draw(tmp_path, *slice_of_brain)
    truth, predicted = green(picture), orange(picture)
    assert len(truth) > 50
    assert len(predicted) > 50
    assert ((truth[:, 1] > 1 / 3) & (truth[:, 1] < 2 / 3)).all()
    assert (predicted[:, 1] > 2 / 3).all()


def test_the_view_is_radiological_of_scan_and_masks_alike(slice_of_brain, tmp_path):
    """Low X is the patient's left (RAS+: X grows to the right), drawn on the right; high Y is anterior, on top."""
    image, truth, predicted = slice_of_brain
    image[truth] = 300
    picture = draw(tmp_path, image, truth, predicted)
    marked = green(picture).mean(0) - (0, 1 / 3)
    scan_panel = picture[60:230, 6:235]  # without the white around it
    bright = np.add(np.argwhere(scan_panel.min(-1) == 255).mean(0), (60, 6)) / picture.shape[:2]
    assert marked[0] < 0.5
    assert marked[1] > 0.2
    assert bright == pytest.approx(marked, abs=0.02)


def test_empty_masks_are_drawn_as_nothing(slice_of_brain, tmp_path):
    image, truth, _ = slice_of_brain
    picture = draw(tmp_path, image, np.zeros_like(truth), np.zeros_like(truth))
    assert len(green(picture)) == len(orange(picture)) == 0


def test_a_slice_without_contrast_is_drawn(slice_of_brain, tmp_path):
    _, truth, predicted = slice_of_brain
    draw(tmp_path, np.zeros(truth.shape, np.float32), truth, predicted)


def test_a_name_with_dollars_is_drawn_as_it_is_written(slice_of_brain, tmp_path):
    draw(tmp_path, *slice_of_brain, case=r"P$\frac$")


def measured(name: str, truth: np.ndarray, predicted: np.ndarray, voxel_mm=(2.0, 2.0, 5.0)) -> dict:
    slice_dice, slice_iou = slice_dices(predicted, truth)
    return {
        "case": name,
        "patient": name,
        **case_metrics(predicted, truth, voxel_mm),
        "slice_dice": slice_dice.tolist(),
        "slice_iou": slice_iou.tolist(),
        "slice_has_lesion": truth.any((0, 1)).tolist(),
        "slice_has_prediction": predicted.any((0, 1)).tolist(),
    }


@pytest.fixture
def page_of(tmp_path):
    def run(names: list[str], pictures=(), synthetic: bool = False, comparison: dict = ALONE, **more) -> str:
        truth = np.zeros((10, 10, 3), bool)
        truth[2:6, 2:6, 1] = True
        predicted = np.roll(truth, 2, axis=0)
        cases = [measured(name, truth, predicted, **more) for name in names]
        write_page(cases, summary(cases), 0.35, synthetic, list(pictures), tmp_path / "page.html", comparison)
        return (tmp_path / "page.html").read_text()

    return run


@pytest.fixture
def noisy_pictures(tmp_path):
    """Ten pictures of the size of samples that hardly compress."""
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), np.random.default_rng(i).integers(0, 255, (272, 720, 3), np.uint8))
    return paths


def test_the_page_holds_every_scan_its_metrics_and_the_threshold(page_of):
    page = page_of(["P1", "P2"])
    rows = re.findall(r"<tr><td>(P\d)</td>(.*?)</tr>", page, re.DOTALL)
    assert [name for name, _ in rows] == ["P1", "P2"]
    assert re.findall(r">([^<>\n]+)</td>", rows[0][1]) == ["0.500", "0.32", "0.32", "1 of 1", "0", "1.000"]
    assert "threshold 0.35" in page


def test_a_volume_that_is_not_known_is_a_question_mark_and_the_page_says_why(page_of):
    page = page_of(["P1"], voxel_mm=None)
    assert '<td class="n">?</td>' in page
    assert "missing for 1 scans: their files hold no voxel size" in page


def test_the_page_loads_nothing_from_elsewhere(page_of, slice_of_brain, tmp_path):
    draw(tmp_path, *slice_of_brain)
    page = page_of(["P1"], [tmp_path / "sample.png"])
    assert re.findall(r"""(?:src|href)\s*=\s*["'](.{22})""", page) == ["data:image/jpeg;base64"]
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def test_ten_samples_are_all_on_the_page(page_of, slice_of_brain, tmp_path):
    draw(tmp_path, *slice_of_brain)
    page = page_of(["P1"], [tmp_path / "sample.png"] * 10)
    assert page.count("<img") == 10


@pytest.mark.parametrize("name", ["P", "<" * 200], ids=["plain", "long names that grow when escaped"])
def test_the_page_stays_under_one_megabyte_however_much_there_is_to_show(page_of, noisy_pictures, name):
    page = page_of([f"{name}{i}" for i in range(600)], noisy_pictures)
    assert len(page.encode()) < 1_000_000


def test_names_that_carry_html_are_shown_and_not_run(page_of):
    page = page_of(['<img src=x onerror="alert(1)">'])
    assert "<img" not in page
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;" in page


def test_the_page_says_that_the_scans_are_synthetic_where_they_are(page_of):
    assert "Synthetic demo scans" in page_of(["P1"], synthetic=True)
    assert "ynthetic" not in page_of(["P1"], synthetic=False)


def test_the_page_says_that_few_patients_are_too_few(page_of):
    assert "too few to conclude" in page_of([f"P{i}" for i in range(9)])
    assert "too few to conclude" not in page_of([f"P{i}" for i in range(10)])


def test_the_page_sets_the_model_against_the_champion(page_of):
    difference = {"mean": -0.012, "ci_low": -0.031, "ci_high": 0.006}
    pairs = {"dice": {"P1": [0.5, 0.5], "P2": [0.4, 0.5]}}
    page = page_of(["P1"], comparison={
        "champion": "3", "model": "m", "reason": "", "pairs": pairs, "differences": {"dice": difference},
    })  # fmt: skip
    section = page.split("Against the champion, version 3")[1].split("<h2>")[0]
    row = re.sub(r"<[^>]+>|\s+", " ", section.split("<tr>")[-1]).split()
    assert row == ["Dice", "2", "-0.012", "-0.031", "to", "0.006"]


def test_the_page_says_why_there_is_no_comparison(page_of):
    assert "No ground for a promotion: there was no champion to compare with." in page_of(["P1"])


def test_the_page_says_what_it_is_not(page_of):
    assert "Research use only. Not a medical device." in page_of(["P1"])
