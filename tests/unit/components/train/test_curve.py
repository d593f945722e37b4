import cv2
import pytest

from components.train.curve import draw_curve


def row(epoch: int) -> dict[str, float]:
    return {
        "epoch": epoch, "train_loss": 1 / epoch, "train_dice": 0.5, "val_loss": 1.1 / epoch, "val_dice": 0.4,
        "learning_rate": 1e-3,
    }  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 12])
def test_the_curve_of_one_epoch_or_of_many_is_a_picture(epochs, tmp_path):
    draw_curve([row(epoch) for epoch in range(1, epochs + 1)], 1, tmp_path / "curve.png")
    picture = cv2.imread(str(tmp_path / "curve.png"))
    assert picture.shape[1] > 2 * picture.shape[0]  # three panels side by side
    assert picture.std() > 5
