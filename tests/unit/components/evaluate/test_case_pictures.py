"""The pictures that people judge a model by."""

import base64

import cv2
import numpy as np
import pytest

from components.artifacts.evaluation import ScanResult
from components.evaluate.case_pictures import Sample, choose_samples, draw_failure, draw_sample
from tests.support.scan_results import scan_result


def scan(
    name: str, dices: list[float], lesion: list[bool] | None = None, predicted: list[bool] | None = None
) -> ScanResult:
    everywhere = [True] * len(dices)
    return scan_result(
        name,
        slice_dice=dices,
        slice_has_lesion=everywhere if lesion is None else lesion,
        slice_has_prediction=everywhere if predicted is None else predicted,
    )


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


def test_a_sample_has_its_case_slice_and_dice():
    (sample,) = choose_samples([scan("A", [1.0, 0.3], lesion=[False, True], predicted=[False, False])])
    assert (sample.case, sample.slice, sample.dice) == ("A", 1, 0.3)


def test_slices_with_neither_lesion_nor_prediction_are_not_shown():
    one = scan("A", [1.0, 0.0, 0.0, 0.5], lesion=[False, True, False, True], predicted=[False, False, True, True])
    assert set(places(choose_samples([one]))) == {("A", 1), ("A", 2), ("A", 3)}


def test_the_order_of_the_scans_does_not_change_the_choice_of_equal_slices():
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


def test_a_failure_is_shown_where_most_voxels_are_wrong(make_scan):
    """Slice 3 is wrong everywhere and black, the others are right and bright."""
    image, _, truth = make_scan(0, (48, 40, 5))
    image[:, :, 3] = 0
    predicted = truth > 0
    predicted[:, :, 3] = ~predicted[:, :, 3]
    uri = draw_failure(image, truth > 0, predicted)
    jpeg = np.frombuffer(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")), np.uint8)
    picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert picture.shape[:2] == (200, 240)
    assert np.median(picture) == 0
