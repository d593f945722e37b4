"""The training curve as a picture."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw_curve(history: list[dict[str, float]], best_epoch: int, path: Path) -> None:
    """Loss, Dice and learning rate over the epochs, the best epoch marked; a PNG at `path`."""
    epochs = [row["epoch"] for row in history]
    figure, (loss, dice, rate) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for axis, what in ((loss, "loss"), (dice, "dice")):
        for subset, colour in (("train", "#8aa4c8"), ("val", "#c2410c")):
            axis.plot(epochs, [row[f"{subset}_{what}"] for row in history], color=colour, label=subset, marker=".")
        axis.axvline(best_epoch, color="#94a3b8", linestyle=":", label=f"best epoch {best_epoch}")
        axis.set(xlabel="epoch", title={"loss": "Loss", "dice": "Dice"}[what])
        axis.legend(frameon=False)
    dice.set_ylim(0, 1)
    rate.plot(epochs, [row["learning_rate"] for row in history], color="#0f766e")
    rate.set(xlabel="epoch", title="Learning rate", yscale="log")
    figure.savefig(path, dpi=90)
    plt.close(figure)
