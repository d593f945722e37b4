"""The training's page: self-contained, small, and clear about what validation numbers are worth."""

import pytest

from components.artifacts.trained_model import TrainedModel
from components.train.training_curve import draw_curve, write_page

TRAINED = TrainedModel(
    image_size=96,
    normalization="slice",
    base_channels=4,
    best_epoch=2,
    best_val_dice=0.5,
    threshold=0.35,
    params={"loss": "<dice>", "epochs": 300},
    lineage={"data": "synthetic demo scans, no patients"},
)


@pytest.fixture
def page(tmp_path) -> str:
    """Of 300 epochs."""
    names = ("train_loss", "val_loss", "train_dice", "val_dice", "learning_rate")
    history = [{"epoch": epoch, **dict.fromkeys(names, 1 / epoch)} for epoch in range(1, 301)]
    draw_curve(history, 2, tmp_path / "curve.png")
    write_page(TRAINED, 0.4321, tmp_path / "curve.png", tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


def test_it_holds_the_picture_and_asks_nothing_of_a_network(page):
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page
    assert len(page.encode()) < 1_000_000


def test_demo_scans_are_called_synthetic(page):
    assert "Synthetic demo scans" in page


def test_it_says_which_epoch_is_best_where_and_at_which_threshold(page):
    assert "Best epoch 2: validation Dice <b>0.500</b>" in page
    assert "<b>0.432</b> in the scans' own space at the threshold 0.35" in page
    assert "is measured on the test patients" in page


def test_settings_are_listed_and_escaped(page):
    assert "<td>loss</td><td>&lt;dice&gt;</td>" in page
