"""Validation: scores of whole scans and patients, and the choice of the threshold.

The training itself, its kill and its resumption, needs object storage and MLflow: see tests/integration.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from components.model.inference import load_model, native_probability
from components.model.lesions import lesion_mask
from components.model.losses import dice_loss
from components.train.validation import THRESHOLDS, ValidatedScan, choose_threshold, patient_mean, validate
from tests.support.trained import trained

SIZE = 32


class CurrentSlice(nn.Module):
    """Logits are the current slice, or one of its neighbours (channel 0 or 2), as it stands."""

    def __init__(self, channel: int = 1):
        super().__init__()
        self.channel, self.somewhere = channel, nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW):
        return x_BCHW[:, self.channel : self.channel + 1]


def squares(*areas: tuple[int, int]) -> np.ndarray:
    """Slices (S, H, W) with a lesion of rows x columns each, from the upper left corner."""
    out = np.zeros((len(areas), SIZE, SIZE), bool)
    for lesion, (rows, columns) in zip(out, areas, strict=True):
        lesion[:rows, :columns] = True
    return out


def shown(predicted: np.ndarray) -> np.ndarray:
    """Slices whose own values, taken as logits, are this prediction: 2 inside, -2 outside."""
    return np.where(predicted, 2.0, -2.0)


def mean(scores: list[ValidatedScan]) -> tuple[float, float]:
    return tuple(np.mean([(score.loss, score.dice) for score in scores], axis=0))


def test_dice_is_of_the_whole_scan_and_then_the_mean_of_the_scans(slices):
    """A: 4 + 0 of 4 + 12 true pixels hit, 4 predicted: 2 * 4 / 20. B: all of 6. Mean (0.4 + 1) / 2."""
    slices.add("A", shown(squares((2, 2), (0, 0))), squares((2, 2), (3, 4)))
    slices.add("B", shown(squares((2, 3), (0, 0))), squares((2, 3), (0, 0)))
    _, dice = mean(validate(CurrentSlice(), slices.read(), "dice", "float32"))
    assert dice == pytest.approx(0.7)


def test_dice_of_random_scans_is_monais(slices):
    from monai.metrics import DiceMetric  # seconds

    rng, expected = np.random.default_rng(0), []
    for name in "ABCD":
        image, lesion = rng.normal(size=(5, SIZE, SIZE)), rng.random((5, SIZE, SIZE)) < 0.4
        slices.add(name, image, lesion)
        masks = (torch.from_numpy(m)[None, None].float() for m in (image.astype(np.float16) > 0, lesion))
        expected.append(float(DiceMetric()(*masks)))
    _, dice = mean(validate(CurrentSlice(), slices.read(), "dice", "float32"))
    assert dice == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_lesion_free_scan_without_prediction_counts_as_perfect_and_with_one_as_missed(slices):
    slices.add("quiet", shown(squares((0, 0))), squares((0, 0)))
    slices.add("false", shown(squares((1, 1))), squares((0, 0)))
    scores = validate(CurrentSlice(), slices.read("quiet", "false"), "dice", "float32")
    assert [score.dice for score in scores] == [1.0, 0.0]


def test_a_false_voxel_costs_a_lesion_free_patient_little_and_a_flood_costs_all(slices):
    """Voxels of 0.1 mL: 3 of them are 0.3 mL of the 10 mL at which nothing is left; 200 are beyond."""
    slices.add("speck", shown(squares((1, 3))), squares((0, 0)), voxel_mm=(5, 4, 5))
    slices.add("flood", shown(squares((10, 20))), squares((0, 0)), voxel_mm=(5, 4, 5))
    slices.add("found", shown(squares((2, 2))), squares((2, 4)), voxel_mm=(5, 4, 5))
    scores = validate(CurrentSlice(), slices.read(), "dice", "float32")
    assert [score.score for score in scores] == pytest.approx([0.97, 0, 2 / 3])


def test_a_patient_with_many_scans_counts_once():
    np.testing.assert_allclose(patient_mean(["A", "B", "A", "A"], [0.0, 1.0, 0.3, 0.6]), [0.3, 1.0])


def test_loss_is_that_of_whole_scans_and_then_the_mean(slices):
    expected = []
    for name, lesion in (("A", squares((4, 4), (0, 0), (9, 9))), ("B", squares((1, 1)))):
        slices.add(name, shown(np.roll(lesion, 1, axis=2)), lesion)
        logits = torch.from_numpy(shown(np.roll(lesion, 1, axis=2)))
        expected.append(float(dice_loss(logits, torch.from_numpy(lesion).float())))
    loss, _ = mean(validate(CurrentSlice(), slices.read(), "dice", "float32"))
    assert loss == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("channel", [0, 2])
def test_every_slice_is_seen_between_its_neighbours(slices, channel):
    """A network that answers with the neighbour is right where the neighbour's lesion is the truth."""
    lesions = squares((1, 1), (2, 2), (3, 3), (4, 4))
    previous_or_next = lesions[[0, 0, 1, 2] if channel == 0 else [1, 2, 3, 3]]
    slices.add("A", shown(lesions), previous_or_next)
    [score] = validate(CurrentSlice(channel), slices.read(), "dice", "float32")
    assert score.dice == 1.0


def test_validation_looks_with_fixed_statistics_and_learns_nothing(slices):
    network = nn.Sequential(CurrentSlice(), nn.BatchNorm2d(1)).train()
    slices.add("A", shown(squares((5, 5))) + 3, squares((5, 5)))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    validate(network, slices.read(), "dice", "float32")
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


@pytest.fixture
def model(tmp_path, ramp_network):
    """Writes a model folder whose network answers sigmoid(max(slice, 0) + bias)."""

    def write(bias: float = 0.0, **facts):
        torch.save(ramp_network(bias=bias).state_dict(), tmp_path / "best_model.pth")
        trained(**facts).write(tmp_path)
        return tmp_path

    return write


def choose(model: Path, slices) -> tuple[dict[str, float], float]:
    """Return what was chosen, and the mean Dice with it."""
    chosen, dice = choose_threshold(*load_model(model), slices.folder, slices.cases, slices.read())
    sizes = ("smallest_lesion_ml", "smallest_lesion_voxels")
    found = {name: value for name in sizes if (value := getattr(chosen, name)) is not None}
    assert chosen.params == found
    return {"threshold": chosen.threshold} | found, dice


def test_the_threshold_with_the_best_dice_is_chosen(slices, model):
    """The lesion has probability 0.85, its surroundings 0.72: only thresholds between them separate the two."""
    lesion = squares((6, 6), (0, 0), (3, 9))
    slices.add("A", np.where(lesion, logit(0.85), logit(0.72)), lesion)
    assert choose(model(), slices) == ({"threshold": 0.75}, 1.0)


def test_the_best_mean_over_the_scans_decides_and_not_the_best_scan(slices, model):
    """Below 0.6 the two easy scans are right, above it the hard one; no threshold serves all three."""
    lesion = squares((6, 6))
    for name in ("easy", "easy too"):
        slices.add(name, np.where(lesion, logit(0.6), 0), lesion)
    slices.add("hard", np.where(lesion, logit(0.9), logit(0.8)), lesion)
    cut, dice = choose(model(), slices)
    assert cut == {"threshold": 0.55}
    assert dice == pytest.approx((1 + 1 + 2 * 36 / (SIZE * SIZE + 36)) / 3)


@pytest.mark.parametrize(("everywhere", "expected"), [(0.32, 0.3), (0.93, 0.5), (0.52, 0.5)])
def test_of_equally_good_thresholds_the_nearest_to_one_half_is_chosen(slices, model, everywhere, expected):
    """All is lesion and all has one probability: every threshold below it is perfect."""
    slices.add("A", np.zeros((2, SIZE, SIZE)), np.ones((2, SIZE, SIZE), bool))
    assert choose(model(logit(everywhere)), slices) == ({"threshold": expected}, 1.0)


def test_of_equally_good_thresholds_above_one_half_the_lowest_is_chosen(slices, model):
    """Nothing is lesion and all has probability 0.72: every threshold above it is perfect."""
    slices.add("A", np.zeros((2, SIZE, SIZE)), squares((0, 0), (0, 0)))
    assert choose(model(logit(0.72)), slices) == ({"threshold": 0.75}, 1.0)


def test_patients_choose_the_threshold_nearest_to_one_half_within_one_standard_error(slices, model):
    """12 patients, each with another part missed. Above 0.55 a false pixel goes: it matters less than they differ."""
    for number in range(12):
        lesion, missed, false = squares((6, 6)), squares((6, 6 + number)), squares((7, 1))
        image = np.where(lesion, logit(0.9), np.where(false, logit(0.53), -5))
        slices.add(f"P{number}", image + 5, missed)
    by_dice, _ = choose(model(-5, selection="dice"), slices)
    by_patients, _ = choose(model(-5, selection="patients"), slices)
    assert (by_dice["threshold"], by_patients["threshold"]) == (0.55, 0.5)


def test_a_gain_beyond_one_standard_error_moves_the_threshold(slices, model):
    for number in range(12):
        lesion = squares((6, 6))
        slices.add(f"P{number}", np.where(lesion, logit(0.9), logit(0.72)), lesion)
    assert choose(model(selection="patients"), slices) == ({"threshold": 0.75}, 1.0)


def test_fewer_than_ten_patients_choose_no_threshold(slices, model):
    for number in range(9):
        lesion = squares((6, 6))
        slices.add(f"P{number}", np.where(lesion, logit(0.9), logit(0.7)), lesion)
    assert choose(model(selection="patients"), slices)[0] == {"threshold": 0.5}


def test_thresholds_go_from_5_to_95_percent():
    assert THRESHOLDS.tolist() == pytest.approx([i * 0.05 for i in range(1, 20)])


def specks(*sides: int) -> np.ndarray:
    """One slice with a square of each of these sides, apart from each other."""
    out = np.zeros((1, SIZE, SIZE), bool)
    for number, side in enumerate(sides):
        out[0, 8 * (number // 4) :, 8 * (number % 4) :][:side, :side] = True
    return out


def test_with_cca_the_smallest_lesion_is_chosen_too(slices, model):
    """Voxels of 5 mm³. Four false specks of 9 voxels (0.045 mL), true lesions of 16 (0.08 mL): 0.05 mL parts them."""
    slices.add("A", shown(specks(4, 4, 3, 3, 3, 3)), specks(4, 4), voxel_mm=(1, 1, 5))
    cut, dice = choose(model(cca=True), slices)
    assert (cut, dice) == ({"threshold": 0.5 + 0.05, "smallest_lesion_ml": 0.05}, 1.0)


def test_the_threshold_is_chosen_before_the_smallest_lesion_and_not_with_it(slices, model):
    """Up to 0.6 A is perfect and the false specks of B and C make both 0; above 0.8 it is the other way round, which is
    two of three. The specks away, the low threshold would be right for all: so much from three scans is not believed.
    """
    lesion = specks(6)
    slices.add("A", np.where(lesion, logit(0.6), 0), lesion, voxel_mm=(1, 1, 5))
    for name in "BC":
        slices.add(name, np.where(specks(3), logit(0.8), 0), specks(), voxel_mm=(1, 1, 5))
    alone, _ = choose(model(), slices)
    cut, dice = choose(model(cca=True), slices)
    assert alone["threshold"] > 0.75
    assert (cut, dice) == (alone | {"smallest_lesion_ml": 0}, pytest.approx(2 / 3))


def test_more_than_a_tenth_of_a_ml_is_dropped_only_where_lesions_gain_too(slices, model):
    """Voxels of 5 mm³. A false speck of 36 voxels (0.18 mL) beside a true lesion: dropping it gains both."""
    slices.add("A", shown(specks(7, 6)), specks(7), voxel_mm=(1, 1, 5))
    assert choose(model(cca=True), slices)[0]["smallest_lesion_ml"] == 0.2
    # The speck touches a rest of a lesion: Dice gains where it is dropped, lesion-wise F1 loses.
    slices.entries.clear(), slices.cases.clear()
    found, truth = specks(7, 6, 0), specks(7, 6, 0)
    truth[0, 1:6, 9:14] = False  # of the second lesion a rim is left: 11 of 36 voxels
    slices.add("B", shown(found), truth, voxel_mm=(1, 1, 5))
    assert choose(model(cca=True), slices)[0]["smallest_lesion_ml"] <= 0.1


def test_without_voxel_sizes_it_is_chosen_in_voxels(slices, model):
    slices.add("A", shown(specks(4, 3)), specks(4), voxel_mm=(1, 1, 5))
    slices.add("B", shown(specks(4, 3)), specks(4), voxel_mm=None)
    cut, _ = choose(model(cca=True), slices)
    assert cut["smallest_lesion_voxels"] == 10 and "smallest_lesion_ml" not in cut


def test_where_dropping_gains_nothing_nothing_is_dropped(slices, model):
    slices.add("A", shown(specks(4, 1)), specks(4, 1))
    assert choose(model(cca=True), slices)[0]["smallest_lesion_ml"] == 0


def test_what_was_chosen_has_the_dice_that_was_promised(slices, model):
    rng, with_cca = np.random.default_rng(0), model(cca=True)
    for name in "AB":
        lesion = specks(6, 5, 2, 1)
        slices.add(name, 3 * lesion + rng.normal(size=lesion.shape), lesion, voxel_mm=(2, 2, 3))
    cut, promised = choose(with_cca, slices)
    network, facts = load_model(with_cca)
    found = []
    for case in slices.read():
        probability = native_probability(network, facts, np.load(case.image), case.order, case.placement)
        predicted, truth = (
            lesion_mask(probability, facts.model_copy(update=cut), (2, 2, 3)),
            np.load(case.mask).transpose(2, 1, 0) > 0,
        )
        found.append(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))
    assert cut["smallest_lesion_ml"] > 0
    assert promised == pytest.approx(np.mean(found))
